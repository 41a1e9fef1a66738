#pragma once
// Which of this host's addresses a rank listens on. Never all of them: a machine's public interface is no place to
// wait for connections that only peers on the cluster's network make.

#include <optional>
#include <string>
#include <vector>

#include "transport/socket_address.h"

namespace merak {

struct NetworkInterface {
  std::string name;
  SocketAddress address;  // one of its addresses
};

// All addresses of all interfaces that are up.
std::vector<NetworkInterface> network_interfaces();

struct AddressChoice {
  std::vector<std::string> interfaces = {};  // the first of these that this host has
  std::optional<std::string> address = {};   // numeric; must be this host's
  std::string rendezvous_host = {};          // name or address of the host where the ranks meet
};

// The first that is given of: the address, an interface's address, the address from which packets to the rendezvous
// leave, loopback. Its port is 0. Throws std::invalid_argument when what is given does not exist, naming what does.
SocketAddress choose_address(const AddressChoice& choice);

}  // namespace merak
