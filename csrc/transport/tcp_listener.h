#pragma once
// Accepts the connections of all groups of a process, on one port of one address.
//
// A small thread accepts, reads the hello (hello.h) and hands the connection to the rank that it names. A stranger gets
// nowhere: a handshake has a few seconds and a fixed size, only so many go on at once (more wait in the kernel's
// queue), and without a group's token the connection is closed without an answer, counted, and the first one logged.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "transport/descriptor.h"
#include "transport/environment.h"
#include "transport/fork.h"
#include "transport/socket_address.h"
#include "transport/token.h"

namespace merak {

struct HandshakeLimits {
  std::chrono::milliseconds duration{3000};
  std::size_t at_once = 1024;
};

// Thread-safe.
class TcpListener {
 public:
  // Called on the listener's thread with a connection whose handshake is done. Must not call back into the listener.
  using OnSocket = std::function<void(int from, Descriptor socket)>;

  // One rank of one group that waits for connections. Ends the wait when it is destroyed, after which on_socket is not
  // called any more.
  class Membership {
   public:
    virtual ~Membership() = default;
  };

  // The listener of this process on that address: started for its first user, ended with the last one.
  static std::shared_ptr<TcpListener> shared(const SocketAddress& address, PortRange ports);

  // Listens on a free port of the range, or any free port. Throws NetworkError, saying where it cannot listen.
  TcpListener(const SocketAddress& address, PortRange ports, HandshakeLimits limits = {});
  ~TcpListener();

  const SocketAddress& address() const;  // with the port

  // Welcomes each rank above `rank` of that group of `size` ranks, once, and lets those below wait (hello.h) as long as
  // the membership lasts. The listener must outlive what it returns.
  std::unique_ptr<Membership> welcome(const Token& token, int rank, int size, OnSocket on_socket);

  std::uint64_t refused() const;  // handshakes that failed, so far

 private:
  struct State;
  ProcessPtr<State> state_;
};

}  // namespace merak
