#include "backend/store_rendezvous.h"

#include <cstring>
#include <utility>

#include "transport/errors.h"
#include "transport/rendezvous.h"
#include "transport/tcp_transport.h"
#include "transport/token.h"

namespace merak {
namespace {

constexpr const char* kTokenKey = "merak/token";

std::string address_key(int rank) { return "merak/address/" + std::to_string(rank); }

class StoreRendezvous final : public Rendezvous {
 public:
  StoreRendezvous(std::shared_ptr<StoreClient> store, int rank) : store_(std::move(store)), rank_(rank) {}

  void publish(const std::string& address) override { store_->set(address_key(rank_), address); }
  std::optional<std::string> lookup(int peer) override {
    if (!store_->has({address_key(peer)})) return std::nullopt;
    return store_->get(address_key(peer));
  }

 private:
  const std::shared_ptr<StoreClient> store_;
  const int rank_;
};

Token fetch_token(StoreClient& store, const GroupIdentity& identity, Clock::duration timeout,
                  const std::function<void()>& check) {
  const auto values = store.wait_for({kTokenKey}, Clock::now() + timeout, check);
  if (!values) {
    throw NetworkError("group '" + identity.name + "', rank " + std::to_string(identity.rank) +
                       ": rank 0 has not created the group within its timeout. Look for its first error, and check " +
                       "that all ranks create their groups in the same order.");
  }
  Token token;
  if (values->front().size() != token.size()) {
    throw MismatchError("group '" + identity.name + "': the store's key '" + kTokenKey +
                        "' holds no token of merak's. Does another program use the same store and prefix?");
  }
  std::memcpy(token.data(), values->front().data(), token.size());
  return token;
}

}  // namespace

void publish_token(StoreClient& store, int rank) {
  if (rank != 0) return;
  const Token token = random_token();
  store.set_once(kTokenKey, std::string(reinterpret_cast<const char*>(token.data()), token.size()));
}

Membership::MakeTransport tcp_transport_maker(std::shared_ptr<StoreClient> store, GroupIdentity identity,
                                              std::string rendezvous_host) {
  return [=](Clock::duration timeout, const std::function<void()>& check) -> std::unique_ptr<Transport> {
    const Token token = fetch_token(*store, identity, timeout, check);
    return std::make_unique<TcpTransport>(identity.rank, identity.size, token,
                                          std::make_unique<StoreRendezvous>(store, identity.rank),
                                          TcpOptions::from_environment(rendezvous_host));
  };
}

}  // namespace merak
