#pragma once
// Who shares what wire: the ranks of a group, their hosts, and what the wires carry.
//
// A host has one link to the others, which carries bytes in each direction at once, through a switch that never blocks.
// Ranks of one host reach each other by memory, each with a path of its own in each direction. The numbers for a usual
// host are those that the collectives start from: 1 Gbit/s Ethernet, TCP.

#include <cstddef>
#include <vector>

namespace merak {

struct HostLinks {
  double out_bytes_per_s = 119.6e6;
  double in_bytes_per_s = 119.6e6;
  double inside_bytes_per_s = 1.5e9;  // of each rank's path to its neighbours, in each direction

  bool operator==(const HostLinks&) const = default;
};

struct Network {
  std::vector<int> host_of;      // by rank: its host's index in `hosts`
  std::vector<HostLinks> hosts;  // they may differ
  // From the start of a message to its arrival, when it has no bytes.
  double latency_s = 60e-6;
  double latency_inside_s = 30e-6;
  double per_message_s = 15e-6;  // at its sender, and at its receiver
  double reduce_seconds_per_byte = 2.5e-10;

  int ranks() const { return static_cast<int>(host_of.size()); }
  bool operator==(const Network&) const = default;
};

// `hosts` equal hosts with `ranks_per_host` ranks each, numbered host by host.
Network uniform_network(int hosts, int ranks_per_host);

// Equal hosts, told apart by any numbers, of which host_of[rank] is the rank's.
Network network_of(const std::vector<int>& host_of);

// Throws std::invalid_argument for a rank without a host, a bandwidth that is not positive, a negative time.
void check_network(const Network& network);

}  // namespace merak
