#pragma once
// The links of one rank of a group, over TCP.
//
// Of two ranks the higher one dials the lower one, however many of them ask: there is never a second connection to
// choose from. A rank publishes the address of its process's listener (tcp_listener.h) when it starts; connections are
// made when they are asked for. A lower rank that waits for a higher one watches that its process still runs.

#include <chrono>
#include <memory>
#include <string>

#include "transport/environment.h"
#include "transport/fork.h"
#include "transport/link.h"
#include "transport/rendezvous.h"
#include "transport/socket_address.h"
#include "transport/token.h"

namespace merak {

struct TcpOptions {
  SocketAddress address = SocketAddress::parse_host("127.0.0.1");  // to listen on; its port does not matter
  PortRange ports = {};
  std::chrono::milliseconds connect_timeout{20'000};
  std::chrono::milliseconds lost_host_timeout{60'000};  // see tcp_socket.h

  // As the environment variables say, with the address chosen for a rendezvous at that host. Throws as the accessors
  // of environment.h and choose_address() do.
  static TcpOptions from_environment(const std::string& rendezvous_host);
};

// Thread-safe. start() throws NetworkError when it cannot listen, and what Rendezvous::publish throws. on_link is
// called on a thread of the transport's and must not close the transport.
class TcpTransport : public Transport {
 public:
  // Needs 0 <= rank < size; the token is the same on all ranks of the group, and another one in every group.
  TcpTransport(int rank, int size, const Token& token, std::unique_ptr<Rendezvous> rendezvous, TcpOptions options);
  ~TcpTransport() override;

  void start(OnLink on_link) override;
  void connect(int peer) override;  // throws std::invalid_argument when there is no such peer
  void close() override;

 private:
  struct State;
  ProcessPtr<State> state_;
};

}  // namespace merak
