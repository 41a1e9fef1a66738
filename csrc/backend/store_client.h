#pragma once
// The store through which the ranks of a group meet, as merak uses it: looked at, never waited in. A client that blocks
// in a request would hold up everyone who shares it, and could not be interrupted.

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "transport/operation.h"

namespace merak {

// Thread-safe. Works on a client of its own where the store can be cloned, made at the first look-up, so that what the
// user's client is doing does not matter. Errors are the store's own (DistNetworkError, DistStoreError).
class StoreClient {
 public:
  explicit StoreClient(c10::intrusive_ptr<c10d::Store> store) : users_(std::move(store)) {}

  void set(const std::string& key, const std::string& value);
  // Keeps the value that is there.
  void set_once(const std::string& key, const std::string& value);

  // The value, or nothing while there is none.
  std::optional<std::string> look_up(const std::string& key);

  // Waits until all keys exist, and returns their values in that order; with some of them missing at `until`, nothing.
  // Calls check() now and then, which may throw to end the wait. Ctrl-C ends it too.
  std::optional<std::vector<std::string>> wait_for(const std::vector<std::string>& keys, Clock::time_point until,
                                                   const std::function<void()>& check);

  // Gives back the client of its own.
  void release();

  const c10::intrusive_ptr<c10d::Store>& users() const { return users_; }

 private:
  c10::intrusive_ptr<c10d::Store> client();

  const c10::intrusive_ptr<c10d::Store> users_;
  std::mutex mutex_;
  c10::intrusive_ptr<c10d::Store> own_;
};

}  // namespace merak
