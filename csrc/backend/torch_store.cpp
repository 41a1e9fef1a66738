#include "backend/torch_store.h"

#include <c10/util/Exception.h>

namespace merak {

c10::intrusive_ptr<c10d::Store> TorchStore::client() {
  std::lock_guard lock(mutex_);
  if (own_) return own_;
  // Raises at once when the store is gone; connecting anew would first try for as long as the store's timeout.
  users_->check({"merak/token"});
  try {
    own_ = users_->clone();
  } catch (const c10::DistError&) {
    throw;
  } catch (const std::exception&) {
    own_ = users_;  // a store that cannot be cloned, such as one written in Python
  }
  return own_;
}

void TorchStore::release() {
  std::lock_guard lock(mutex_);
  own_.reset();
}

}  // namespace merak
