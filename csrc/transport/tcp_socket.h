#pragma once
// How merak sets up TCP sockets. All are non-blocking and closed on exec.

#include <chrono>

#include "transport/descriptor.h"
#include "transport/environment.h"
#include "transport/socket_address.h"

namespace merak {

// A fresh socket of an address family. Throws NetworkError.
Descriptor tcp_socket(int family);

// A socket that listens on a port of that range, or on any free one. Throws NetworkError, saying where it cannot.
Descriptor listening_socket(const SocketAddress& address, PortRange ports);

// The options of a connection:
//   no delay: a frame goes out at once, not when the one before is acknowledged;
//   little unsent data in the kernel: what is written there can no longer be overtaken by an urgent message;
//   a host that acknowledges nothing for `lost_host_timeout` (power failure, cable) breaks the connection, whether
//   data is under way or not; so does a process that takes in nothing of what is sent to it for so long, as one that
//   a debugger has stopped; zero leaves it to the kernel, which takes a quarter of an hour or for ever.
// Buffer sizes are left to the kernel, which adapts them.
void set_connection_options(const Descriptor& socket, std::chrono::milliseconds lost_host_timeout);

}  // namespace merak
