#include "transport/handshake.h"

#include <sys/socket.h>

#include <cerrno>

#include "transport/errors.h"
#include "transport/socket_address.h"

namespace merak {

Handshake::Handshake(Descriptor socket, Clock::time_point deadline)
    : socket_(std::move(socket)), deadline_(deadline), peer_(SocketAddress::there(socket_.get()).text()) {}

std::optional<Hello> Handshake::advance() {
  while (arrived_ < bytes_.size()) {
    const ssize_t got = ::recv(socket_.get(), bytes_.data() + arrived_, bytes_.size() - arrived_, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return std::nullopt;
    if (got <= 0) throw NetworkError("it ended in the middle of the handshake");
    arrived_ += static_cast<std::size_t>(got);
    if (!may_be_hello({bytes_.data(), arrived_})) throw MismatchError("it is not merak that connects");
  }
  return parse_hello(bytes_);
}

void Handshake::answer(Answer answer) {
  std::array<std::byte, kAnswerBytes> bytes;
  write_answer(answer, bytes);
  // The first bytes on a connection always fit in its buffer. Should it have ended, the link will say so.
  [[maybe_unused]] const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

}  // namespace merak
