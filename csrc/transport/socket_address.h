#pragma once
// An IPv4 or IPv6 address with a TCP port: "192.0.2.7:4711" or "[2001:db8::7]:4711".

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>

namespace merak {

class SocketAddress {
 public:
  SocketAddress() = default;

  // Needs an address of one of the two families.
  explicit SocketAddress(const sockaddr* address);

  // "address:port" as text() writes it, or a numeric address alone, which gets port 0. Throw std::invalid_argument,
  // quoting the text. No names are looked up.
  static SocketAddress parse(const std::string& text);
  static SocketAddress parse_host(const std::string& text);

  // Of this end and of the other end of a socket.
  static SocketAddress here(int socket);
  static SocketAddress there(int socket);

  SocketAddress with_port(std::uint16_t port) const;

  int family() const { return storage_.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t size() const { return family() == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6); }
  std::uint16_t port() const;
  std::string host() const;  // without the port, and without the number of an interface that only this host knows
  std::string text() const;

  bool is_any() const;  // 0.0.0.0 or ::, "all interfaces"
  bool is_loopback() const;
  bool is_link_local() const;  // IPv6 fe80::/10: means something only together with an interface

  // A link-local address, as a peer on the same network as `local` published it, made usable on this host.
  SocketAddress reached_from(const SocketAddress& local) const;

 private:
  const sockaddr_in& v4() const { return reinterpret_cast<const sockaddr_in&>(storage_); }
  const sockaddr_in6& v6() const { return reinterpret_cast<const sockaddr_in6&>(storage_); }

  sockaddr_storage storage_{};
};

}  // namespace merak
