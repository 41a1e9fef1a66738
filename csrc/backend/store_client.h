#pragma once
// The store through which the ranks of a group meet, as merak uses it: looked at, never waited in. A client that blocks
// in a request would hold up everyone who shares it, and could not be interrupted.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "transport/operation.h"

namespace merak {

// Thread-safe. Errors are the store's own.
class StoreClient {
 public:
  virtual ~StoreClient() = default;

  virtual void set(const std::string& key, const std::string& value) = 0;
  // Keeps the value that is there.
  virtual void set_once(const std::string& key, const std::string& value) = 0;

  // Whether all of them exist.
  virtual bool has(const std::vector<std::string>& keys) = 0;
  // Needs a key that exists.
  virtual std::string get(const std::string& key) = 0;

  // Gives back what it holds of the system's; the next call takes it anew.
  virtual void release() = 0;

  // Waits until all keys exist, and returns their values in that order; with some of them missing at `until`, nothing.
  // Calls check() now and then, which may throw to end the wait. Ctrl-C ends it too.
  std::optional<std::vector<std::string>> wait_for(const std::vector<std::string>& keys, Clock::time_point until,
                                                   const std::function<void()>& check);
};

}  // namespace merak
