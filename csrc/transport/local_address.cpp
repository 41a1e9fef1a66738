#include "transport/local_address.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <stdexcept>

#include "transport/descriptor.h"
#include "transport/errors.h"

namespace merak {
namespace {

// Routes lead to it, but no packet is ever sent there (RFC 5737: for documentation).
constexpr const char* kSomewhereElse = "192.0.2.1";

std::string existing_interfaces() {
  std::string text;
  for (const NetworkInterface& candidate : network_interfaces())
    text += (text.empty() ? "" : ", ") + candidate.name + " (" + candidate.address.host() + ")";
  return "This host has " + text + ".";
}

SocketAddress checked(const std::string& text) {
  const SocketAddress address = SocketAddress::parse_host(text);
  if (address.is_any())
    throw std::invalid_argument("MERAK_SOCKET_ADDRESS='" + text + "' would listen on all interfaces: name one. " +
                                existing_interfaces());
  for (const NetworkInterface& candidate : network_interfaces())
    if (candidate.address.host() == address.host()) return candidate.address;
  if (address.is_loopback()) return address;  // all of 127/8 is this host's
  throw std::invalid_argument("MERAK_SOCKET_ADDRESS='" + text + "' is not an address of this host. " +
                              existing_interfaces());
}

// Smaller is better: every peer understands IPv4, and a link-local address needs to know the interface.
int rank_of(const SocketAddress& address) { return address.family() == AF_INET ? 0 : address.is_link_local() ? 2 : 1; }

SocketAddress of_interface(const std::vector<std::string>& names) {
  std::vector<NetworkInterface> candidates = network_interfaces();
  std::stable_sort(candidates.begin(), candidates.end(), [](const NetworkInterface& a, const NetworkInterface& b) {
    return rank_of(a.address) < rank_of(b.address);
  });
  std::string wanted;
  for (const std::string& name : names) {
    for (const NetworkInterface& candidate : candidates)
      if (candidate.name == name) return candidate.address;
    wanted += (wanted.empty() ? "" : ",") + name;
  }
  throw std::invalid_argument("MERAK_SOCKET_IFNAME='" + wanted +
                              "': no such network interface is up with an address. " + existing_interfaces());
}

// The local address of packets to `address`; nothing when no route leads there.
std::optional<SocketAddress> route_to(const SocketAddress& address) {
  const Descriptor socket = Descriptor::open([&] { return ::socket(address.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0); });
  // Connecting a datagram socket looks up the route and sends nothing. Any port will do.
  const SocketAddress there = address.with_port(9);
  if (::connect(socket.get(), there.get(), there.size()) != 0) return std::nullopt;
  return SocketAddress::here(socket.get()).with_port(0);
}

std::vector<SocketAddress> look_up(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) throw NetworkError("cannot look up the rendezvous host '" + host + "': " + ::gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  std::vector<SocketAddress> addresses;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next)
    if (entry->ai_family == AF_INET || entry->ai_family == AF_INET6) addresses.emplace_back(entry->ai_addr);
  return addresses;
}

bool says_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
}

SocketAddress of_rendezvous(const std::string& host) {
  std::optional<SocketAddress> loopback;
  for (const SocketAddress& address : look_up(host)) {
    const auto local = route_to(address);
    if (!local) continue;
    if (!local->is_loopback() || says_loopback(host)) return *local;
    loopback = loopback.value_or(*local);
  }
  if (!loopback) throw NetworkError("no route leads to the rendezvous host '" + host + "'. " + existing_interfaces());
  // In its own hosts file a machine's name often stands for loopback, where no other machine can reach it.
  return route_to(SocketAddress::parse_host(kSomewhereElse)).value_or(*loopback);
}

}  // namespace

std::vector<NetworkInterface> network_interfaces() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) throw NetworkError("cannot list the network interfaces: " + errno_text(errno));
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, &::freeifaddrs);
  std::vector<NetworkInterface> interfaces;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    const int family = entry->ifa_addr == nullptr ? AF_UNSPEC : entry->ifa_addr->sa_family;
    if ((entry->ifa_flags & IFF_UP) != 0 && (family == AF_INET || family == AF_INET6))
      interfaces.push_back({entry->ifa_name, SocketAddress(entry->ifa_addr)});
  }
  return interfaces;
}

SocketAddress choose_address(const AddressChoice& choice) {
  if (choice.address) return checked(*choice.address);
  if (!choice.interfaces.empty()) return of_interface(choice.interfaces);
  if (!choice.rendezvous_host.empty()) return of_rendezvous(choice.rendezvous_host);
  return SocketAddress::parse_host("127.0.0.1");
}

}  // namespace merak
