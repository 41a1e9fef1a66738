#pragma once
// One attempt to connect to a rank: connect, say hello, await the welcome. Never blocks: advance() goes as far as it
// can, and wait_for() says when it can go further.

#include <poll.h>

#include <array>
#include <chrono>
#include <string>

#include "transport/descriptor.h"
#include "transport/hello.h"
#include "transport/socket_address.h"

namespace merak {

// Why an attempt failed, and whether another one may succeed.
struct DialFailed {
  enum class Again { kNever, kOnce, kUntilDeadline };
  std::string reason;
  Again again = Again::kNever;
};

class TcpDial {
 public:
  // Begins to connect, with the options of tcp_socket.h. Throws DialFailed, as advance() does.
  TcpDial(const SocketAddress& to, const Hello& hello, std::chrono::milliseconds lost_host_timeout);

  pollfd wait_for() const;

  // Whether the peer has said welcome; then take() is the connection.
  bool advance();
  bool said() const { return sent_ == hello_.size(); }  // the whole hello
  Descriptor take() { return std::move(socket_); }

 private:
  bool connected();
  bool said_hello();
  bool answered();

  Descriptor socket_;
  std::array<std::byte, kHelloBytes> hello_;
  std::array<std::byte, kAnswerBytes> answer_{};
  bool connected_ = false;
  std::size_t sent_ = 0, arrived_ = 0;  // bytes of hello_ and answer_
};

}  // namespace merak
