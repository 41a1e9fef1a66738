#include "transport/tcp_dial.h"

#include <sys/socket.h>

#include <cerrno>

#include "transport/errors.h"
#include "transport/tcp_socket.h"

namespace merak {
namespace {

// A peer listens before it publishes its address, so a refusal is final: its process has ended. That there is no way
// to its host, or no local port free, may pass.
[[noreturn]] void fail(int error) {
  const bool refused = error == ECONNREFUSED;
  throw DialFailed{errno_text(error) + (refused ? ": its process has ended, or a firewall refuses the port" : ""),
                   refused ? DialFailed::Again::kNever : DialFailed::Again::kUntilDeadline};
}

// A peer that is in the group may close as well, when this process got so little processor time that its hello came
// too late. So it is worth a second attempt.
[[noreturn]] void fail_handshake(int error) {
  const std::string how = error == 0 ? "closed the connection" : errno_text(error);
  throw DialFailed{how + " during the handshake: it has left the group or its process is ending",
                   DialFailed::Again::kOnce};
}

bool must_wait(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

TcpDial::TcpDial(const SocketAddress& to, const Hello& hello, std::chrono::milliseconds lost_host_timeout)
    : socket_(tcp_socket(to.family())) {
  set_connection_options(socket_, lost_host_timeout);
  write_hello(hello, hello_);
  connected_ = ::connect(socket_.get(), to.get(), to.size()) == 0;
  if (!connected_ && errno != EINPROGRESS) fail(errno);
}

pollfd TcpDial::wait_for() const {
  const bool writes = !connected_ || sent_ < hello_.size();
  return {socket_.get(), static_cast<short>(writes ? POLLOUT : POLLIN), 0};
}

bool TcpDial::advance() { return connected() && said_hello() && answered(); }

bool TcpDial::connected() {
  if (connected_) return true;
  pollfd state = wait_for();
  if (::poll(&state, 1, 0) == 0) return false;
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) fail(error);
  return connected_ = true;
}

bool TcpDial::said_hello() {
  while (sent_ < hello_.size()) {
    const ssize_t sent = ::send(socket_.get(), hello_.data() + sent_, hello_.size() - sent_, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && must_wait(errno)) return false;
    if (sent < 0) fail_handshake(errno);
    sent_ += static_cast<std::size_t>(sent);
  }
  return true;
}

bool TcpDial::answered() {
  while (arrived_ < answer_.size()) {
    const ssize_t got = ::recv(socket_.get(), answer_.data() + arrived_, answer_.size() - arrived_, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && must_wait(errno)) return false;
    if (got <= 0) fail_handshake(got == 0 ? 0 : errno);
    arrived_ += static_cast<std::size_t>(got);
  }
  try {
    const Answer answer = parse_answer(answer_);
    if (answer != Answer::kWelcome) throw MismatchError(describe(answer));
  } catch (const MismatchError& error) {
    throw DialFailed{error.what()};
  }
  return true;
}

}  // namespace merak
