#pragma once
// c10d's store behind merak's interface.

#include <mutex>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "backend/store_client.h"

namespace merak {

// Thread-safe. What waits for others to come (has, get, set) goes through a client of merak's own where the store can
// be cloned, made when it is first needed and shared by the groups of the process, so that what the user's client is
// doing does not matter. A store that is gone raises NetworkError, which says who serves it; other errors are torch's.
class TorchStore final : public StoreClient {
 public:
  explicit TorchStore(c10::intrusive_ptr<c10d::Store> store) : users_(std::move(store)) {}

  void set(const std::string& key, const std::string& value) override;
  void set_once(const std::string& key, const std::string& value) override;
  bool has(const std::vector<std::string>& keys) override;
  std::string get(const std::string& key) override;
  void release() override;

  const c10::intrusive_ptr<c10d::Store>& users() const { return users_; }

 private:
  c10::intrusive_ptr<c10d::Store> client();

  const c10::intrusive_ptr<c10d::Store> users_;
  std::mutex mutex_;
  c10::intrusive_ptr<c10d::Store> own_;
};

}  // namespace merak
