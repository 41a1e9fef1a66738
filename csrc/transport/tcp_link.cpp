#include "transport/tcp_link.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace merak {
namespace {

LinkClosed closed_by(int error) {
  switch (error) {
    case ECONNRESET:
    case EPIPE:
      return LinkClosed("reset by the peer: its process has ended");
    case ETIMEDOUT:
      return LinkClosed(
          "no answer within MERAK_LOST_HOST_TIMEOUT_S: the peer's host is lost or its process is stopped");
    default:
      return LinkClosed(errno_text(error));
  }
}

// `call` moves bytes of the message as ::sendmsg does. Returns what it returns, 0 when it would have to wait.
template <class Call>
std::size_t move(std::span<const iovec> pieces, Call call) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = std::min<std::size_t>(pieces.size(), IOV_MAX);
  ssize_t moved;
  do moved = call(&message);
  while (moved < 0 && errno == EINTR);
  if (moved >= 0) return static_cast<std::size_t>(moved);
  if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
  throw closed_by(errno);
}

bool empty(std::span<const iovec> pieces) {
  return std::all_of(pieces.begin(), pieces.end(), [](const iovec& piece) { return piece.iov_len == 0; });
}

}  // namespace

std::size_t TcpLink::write(std::span<const iovec> from) {
  return move(from, [this](msghdr* message) { return ::sendmsg(socket_.get(), message, MSG_NOSIGNAL); });
}

std::size_t TcpLink::read(std::span<const iovec> to) {
  if (empty(to)) return 0;  // else it would look like the end of the stream
  return move(to, [this](msghdr* message) {
    const ssize_t moved = ::recvmsg(socket_.get(), message, 0);
    if (moved == 0) throw LinkClosed("closed by the peer");
    return moved;
  });
}

void TcpLink::finish_writing() { ::shutdown(socket_.get(), SHUT_WR); }

bool TcpLink::drained() const {
  int unacknowledged = 0;
  return ::ioctl(socket_.get(), SIOCOUTQ, &unacknowledged) != 0 || unacknowledged == 0;
}

}  // namespace merak
