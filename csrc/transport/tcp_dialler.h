#pragma once
// Connects one rank to its peers: looks up each one's address, then dials it, all of them at once, on a thread that
// lives while there is something to connect. And watches peers that should connect to this rank, but do not.

#include <chrono>
#include <functional>
#include <memory>

#include "transport/descriptor.h"
#include "transport/fork.h"
#include "transport/hello.h"
#include "transport/rendezvous.h"
#include "transport/socket_address.h"

namespace merak {

// Thread-safe.
class TcpDialler {
 public:
  // Called on the dialling thread, once per peer, with the connection or with why there is and will be none.
  using OnDialled = std::function<void(int peer, Descriptor socket, const std::string& error)>;

  struct Identity {
    Token token;
    int rank;
    SocketAddress address;  // where this rank listens
  };

  struct Timeouts {
    // How long to try to reach a peer from the moment its address is known. Until then the dialler waits without limit:
    // a peer may be busy elsewhere, and operations have deadlines of their own.
    std::chrono::milliseconds connect;
    std::chrono::milliseconds lost_host;  // see tcp_socket.h; a connection that is watched may be idle for long
  };

  TcpDialler(Identity identity, std::shared_ptr<Rendezvous> rendezvous, Timeouts timeouts, OnDialled on_dialled);

  // Gives up what is under way, but for handshakes to which the peer may have agreed already: a connection that ended
  // without a goodbye would be taken for the death of this rank. They get up to 2 s to end. No call of on_dialled is
  // under way or follows.
  ~TcpDialler();

  void dial(int peer);

  // For a peer that is to connect to this rank: reports when its process ends, or leaves the group, before unwatch().
  void watch(int peer);
  void unwatch(int peer);  // a report may already be on its way

 private:
  struct State;
  ProcessPtr<State> state_;
};

}  // namespace merak
