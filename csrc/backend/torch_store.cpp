#include "backend/torch_store.h"

#include <c10/util/Exception.h>

#include <map>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "transport/errors.h"
#include "transport/fork.h"

namespace merak {
namespace {

using StorePtr = c10::intrusive_ptr<c10d::Store>;

// torch gives every group a prefix before one and the same store, but says no more of the prefix than its derived
// classes may know.
struct Prefix : c10d::PrefixStore {
  static const std::string& of(const c10d::PrefixStore& store) { return store.*&Prefix::prefix_; }
};

// The store that all prefixes of a store stand before, and a way to put them before another one.
StorePtr without_prefixes(const StorePtr& store) {
  auto* prefixed = dynamic_cast<c10d::PrefixStore*>(store.get());
  return prefixed == nullptr ? store : prefixed->getUnderlyingNonPrefixStore();
}
StorePtr with_prefixes_of(const StorePtr& store, const StorePtr& inner) {
  auto* prefixed = dynamic_cast<c10d::PrefixStore*>(store.get());
  if (prefixed == nullptr) return inner;
  return c10::make_intrusive<c10d::PrefixStore>(Prefix::of(*prefixed),
                                                with_prefixes_of(prefixed->getUnderlyingStore(), inner));
}

// Our own clients of the users' stores: one for each store, shared by all groups that meet there, because a connection
// a group would be many at the store's host, and each may wait for a name server.
struct Clients {
  std::mutex mutex;
  std::map<c10d::Store*, c10::weak_intrusive_ptr<c10d::Store>> by_users;  // a TorchStore keeps both

  StorePtr known(const StorePtr& users) {
    std::lock_guard lock(mutex);
    const auto at = by_users.find(users.get());
    return at == by_users.end() ? nullptr : at->second.lock();
  }

  StorePtr make(const StorePtr& users) {
    StorePtr client = users->clone();  // without the lock: it connects
    std::lock_guard lock(mutex);
    by_users.insert_or_assign(users.get(), c10::weak_intrusive_ptr<c10d::Store>(client));
    return client;
  }

  // A weak pointer keeps the object's memory and its connection, so it must go too.
  void forget_unused() {
    std::lock_guard lock(mutex);
    std::erase_if(by_users, [](const auto& entry) { return entry.second.expired(); });
  }

  static Clients& of_process() {
    static auto& clients = *new PerProcess<Clients>;
    return clients.get();
  }
};

// torch's text goes on with a list of C++ frames.
template <class Use>
auto reached(Use use) {
  try {
    return use();
  } catch (const c10::DistNetworkError& error) {
    throw NetworkError(std::string("the store through which the ranks meet does not answer any more (") +
                       error.what_without_backtrace() +
                       "): the process that serves it, rank 0 or torchrun's agent, has ended or cannot be reached. "
                       "Look for the first error in its output");
  }
}

}  // namespace

void TorchStore::set(const std::string& key, const std::string& value) {
  reached([&] { client()->set(key, value); });
}

void TorchStore::set_once(const std::string& key, const std::string& value) {
  reached([&] { users_->compareSet(key, "", value); });
}

bool TorchStore::has(const std::vector<std::string>& keys) {
  return reached([&] { return client()->check(keys); });
}

std::string TorchStore::get(const std::string& key) {
  return reached([&] { return client()->get_to_str(key); });
}

StorePtr TorchStore::client() {
  std::lock_guard lock(mutex_);
  if (own_) return own_;
  const StorePtr users = without_prefixes(users_);
  if (const StorePtr known = Clients::of_process().known(users)) return own_ = with_prefixes_of(users_, known);
  // Raises at once when the store is gone; connecting anew would first try for as long as the store's timeout.
  users_->check({"merak/token"});
  try {
    own_ = with_prefixes_of(users_, Clients::of_process().make(users));
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
  Clients::of_process().forget_unused();
}

}  // namespace merak
