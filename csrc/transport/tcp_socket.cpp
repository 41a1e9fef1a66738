#include "transport/tcp_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "transport/errors.h"

namespace merak {
namespace {

constexpr int kUnsentBytes = 256 * 1024;
constexpr int kBacklog = 4096;  // connections that wait to be accepted; the kernel has a limit of its own, too
constexpr int kProbes = 4;      // of an idle connection, before it is given up

void set(const Descriptor& socket, int level, int option, int value) {
  // None of these can fail on a TCP socket of a kernel that has them; on one that has not, it does without.
  ::setsockopt(socket.get(), level, option, &value, sizeof value);
}

bool listens(const Descriptor& socket, const SocketAddress& address) {
  set(socket, SOL_SOCKET, SO_REUSEADDR, 1);  // a restarted job gets its port although its last connections linger
  return ::bind(socket.get(), address.get(), address.size()) == 0 && ::listen(socket.get(), kBacklog) == 0;
}

}  // namespace

Descriptor tcp_socket(int family) {
  Descriptor socket =
      Descriptor::open([family] { return ::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP); });
  if (!socket) throw NetworkError("cannot make a TCP socket: " + errno_text(errno));
  return socket;
}

Descriptor listening_socket(const SocketAddress& address, PortRange ports) {
  for (int port = ports.first; port <= ports.last; ++port) {
    Descriptor socket = tcp_socket(address.family());
    if (listens(socket, address.with_port(static_cast<std::uint16_t>(port)))) return socket;
    if (errno != EADDRINUSE) throw NetworkError("cannot listen on " + address.host() + ": " + errno_text(errno));
  }
  throw NetworkError("cannot listen on " + address.host() + ": the ports " + std::to_string(ports.first) + "-" +
                     std::to_string(ports.last) + " (MERAK_SOCKET_PORTS) are all in use; each process needs one");
}

void set_connection_options(const Descriptor& socket, std::chrono::milliseconds lost_host_timeout) {
  set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set(socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT, kUnsentBytes);
  if (lost_host_timeout.count() == 0) return;
  const int milliseconds = static_cast<int>(lost_host_timeout.count());
  const int seconds_a_probe = std::max(1, milliseconds / 1000 / (kProbes + 1));
  set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPIDLE, seconds_a_probe);
  set(socket, IPPROTO_TCP, TCP_KEEPINTVL, seconds_a_probe);
  set(socket, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, milliseconds);
}

}  // namespace merak
