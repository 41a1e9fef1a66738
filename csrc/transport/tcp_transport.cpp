#include "transport/tcp_transport.h"

#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "transport/local_address.h"
#include "transport/tcp_dialler.h"
#include "transport/tcp_link.h"
#include "transport/tcp_listener.h"
#include "transport/tcp_socket.h"

namespace merak {

TcpOptions TcpOptions::from_environment(const std::string& rendezvous_host) {
  const AddressChoice choice = {environment::socket_interfaces(), environment::socket_address(), rendezvous_host};
  return {choose_address(choice), environment::socket_ports(), environment::connect_timeout(),
          environment::lost_host_timeout()};
}

struct TcpTransport::State {
  const int rank, size;
  const Token token;
  const TcpOptions options;
  OnLink on_link;
  std::mutex mutex;
  std::vector<bool> asked, reported;  // by peer
  const std::shared_ptr<Rendezvous> rendezvous;
  // Destroyed from the last to the first: the membership uses the listener.
  std::shared_ptr<TcpListener> listener;
  std::unique_ptr<TcpListener::Membership> membership;
  std::unique_ptr<TcpDialler> dialler;

  State(int own_rank, int group_size, const Token& group_token, std::unique_ptr<Rendezvous> where, TcpOptions how)
      : rank(own_rank),
        size(group_size),
        token(group_token),
        options(std::move(how)),
        asked(static_cast<std::size_t>(group_size)),
        reported(static_cast<std::size_t>(group_size)),
        rendezvous(std::move(where)) {}

  void start(OnLink callback) {
    on_link = std::move(callback);
    listener = TcpListener::shared(options.address, options.ports);
    const TcpDialler::Identity identity = {token, rank, listener->address()};
    const auto on_socket = [this](int peer, Descriptor socket, const std::string& error) {
      report(peer, std::move(socket), error);
    };
    dialler = std::make_unique<TcpDialler>(
        identity, rendezvous, TcpDialler::Timeouts{options.connect_timeout, options.lost_host_timeout}, on_socket);
    membership = listener->welcome(token, rank, size, [this](int peer, Descriptor socket) {
      set_connection_options(socket, options.lost_host_timeout);
      report(peer, std::move(socket), "");
    });
    rendezvous->publish(listener->address().text());
  }

  void connect(int peer) {
    if (peer < 0 || peer >= size || peer == rank)
      throw std::invalid_argument("rank " + std::to_string(rank) + " of " + std::to_string(size) +
                                  " has no peer of rank " + std::to_string(peer) + ".");
    std::lock_guard lock(mutex);
    if (asked[peer] || reported[peer] || !dialler) return;
    asked[peer] = true;
    if (peer < rank)
      dialler->dial(peer);
    else
      dialler->watch(peer);
  }

  void report(int peer, Descriptor socket, const std::string& error) {
    {
      std::lock_guard lock(mutex);
      if (reported[peer]) return;  // a watched peer has connected in the meantime
      reported[peer] = true;
      if (peer > rank && dialler) dialler->unwatch(peer);
    }
    if (!socket) return on_link(peer, nullptr, error);
    on_link(peer, std::make_unique<TcpLink>(std::move(socket)), "");
  }

  void close() {
    std::unique_ptr<TcpDialler> dialling;
    {
      std::lock_guard lock(mutex);
      dialling.swap(dialler);  // destroyed without the lock: an on_link under way may be waiting for it in connect()
    }
    dialling.reset();
    membership.reset();
    listener.reset();
  }
};

TcpTransport::TcpTransport(int rank, int size, const Token& token, std::unique_ptr<Rendezvous> rendezvous,
                           TcpOptions options)
    : state_(make_for_process<State>(rank, size, token, std::move(rendezvous), std::move(options))) {}

TcpTransport::~TcpTransport() {
  // In a forked child there is nothing to close; see fork.h.
  if (state_.get_deleter().generation == fork_generation()) close();
}

void TcpTransport::start(OnLink on_link) { state_->start(std::move(on_link)); }

void TcpTransport::connect(int peer) { state_->connect(peer); }

void TcpTransport::close() { state_->close(); }

}  // namespace merak
