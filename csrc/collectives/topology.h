#pragma once
// Who sits where: the ranks of a group and the hosts they run on. Ranks of one host share its link to the others.

#include <cstddef>
#include <vector>

namespace merak {

struct Topology {
  std::vector<int> host_of;  // the host's number, any int, of every rank of the group

  int size() const { return static_cast<int>(host_of.size()); }
  bool operator==(const Topology&) const = default;
};

// `hosts` hosts with `ranks_per_host` ranks each, numbered host by host.
Topology uniform_topology(int hosts, int ranks_per_host = 1);

// The ranks of each host in rising order; hosts in the order of their lowest rank.
std::vector<std::vector<int>> ranks_by_host(const Topology& topology);

// All ranks, host by host, so that a chain or a ring in this order enters and leaves each host once. With `first` set,
// its host comes first, and it comes first in its host.
std::vector<int> host_major_order(const Topology& topology, int first = -1);

// Where `rank` stands in `order`.
int position_in(const std::vector<int>& order, int rank);

}  // namespace merak
