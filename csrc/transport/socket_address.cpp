#include "transport/socket_address.h"

#include <arpa/inet.h>
#include <net/if.h>

#include <charconv>
#include <cstring>
#include <stdexcept>

namespace merak {
namespace {

[[noreturn]] void reject(const std::string& text, const char* expected) {
  throw std::invalid_argument("'" + text + "' is not " + expected + ".");
}

std::uint16_t parse_port(const std::string& text, const std::string& whole) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size()) reject(whole, "an address with a port");
  return port;
}

}  // namespace

SocketAddress::SocketAddress(const sockaddr* address) {
  storage_.ss_family = address->sa_family;
  std::memcpy(&storage_, address, size());
}

SocketAddress SocketAddress::parse(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == text.npos) reject(text, "an address with a port");
  std::string host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!bracketed && host.find(':') != host.npos) reject(text, "an address with a port (IPv6 goes in brackets)");
  return parse_host(host).with_port(parse_port(text.substr(colon + 1), text));
}

SocketAddress SocketAddress::parse_host(const std::string& text) {
  const std::size_t percent = text.find('%');
  const std::string host = text.substr(0, percent);
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  if (percent == text.npos && ::inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1)
    return SocketAddress(reinterpret_cast<const sockaddr*>(&v4));
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  if (percent != text.npos) v6.sin6_scope_id = ::if_nametoindex(text.substr(percent + 1).c_str());
  if (::inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1 && (percent == text.npos) == (v6.sin6_scope_id == 0))
    return SocketAddress(reinterpret_cast<const sockaddr*>(&v6));
  reject(text, "a numeric IPv4 or IPv6 address");
}

SocketAddress SocketAddress::here(int socket) {
  SocketAddress address;
  socklen_t size = sizeof address.storage_;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address.storage_), &size);
  return address;
}

SocketAddress SocketAddress::there(int socket) {
  SocketAddress address;
  socklen_t size = sizeof address.storage_;
  ::getpeername(socket, reinterpret_cast<sockaddr*>(&address.storage_), &size);
  return address;
}

SocketAddress SocketAddress::with_port(std::uint16_t port) const {
  SocketAddress copy = *this;
  if (family() == AF_INET) reinterpret_cast<sockaddr_in&>(copy.storage_).sin_port = htons(port);
  if (family() == AF_INET6) reinterpret_cast<sockaddr_in6&>(copy.storage_).sin6_port = htons(port);
  return copy;
}

std::uint16_t SocketAddress::port() const { return ntohs(family() == AF_INET ? v4().sin_port : v6().sin6_port); }

std::string SocketAddress::host() const {
  char text[INET6_ADDRSTRLEN] = "an unknown address";
  if (family() == AF_INET) ::inet_ntop(AF_INET, &v4().sin_addr, text, sizeof text);
  if (family() == AF_INET6) ::inet_ntop(AF_INET6, &v6().sin6_addr, text, sizeof text);
  return text;
}

std::string SocketAddress::text() const {
  const std::string address = family() == AF_INET6 ? "[" + host() + "]" : host();
  return address + ":" + std::to_string(port());
}

bool SocketAddress::is_any() const {
  if (family() == AF_INET) return v4().sin_addr.s_addr == htonl(INADDR_ANY);
  return IN6_IS_ADDR_UNSPECIFIED(&v6().sin6_addr);
}

bool SocketAddress::is_loopback() const {
  if (family() == AF_INET) return ntohl(v4().sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  return IN6_IS_ADDR_LOOPBACK(&v6().sin6_addr);
}

bool SocketAddress::is_link_local() const { return family() == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&v6().sin6_addr); }

SocketAddress SocketAddress::reached_from(const SocketAddress& local) const {
  SocketAddress copy = *this;
  if (is_link_local() && local.is_link_local())
    reinterpret_cast<sockaddr_in6&>(copy.storage_).sin6_scope_id = local.v6().sin6_scope_id;
  return copy;
}

}  // namespace merak
