#pragma once
// What all hierarchical algorithms share, where hosts have several ranks: *locals* are the ranks of one host. Work
// between the hosts is split into as many *stripes* as the smallest host has ranks; the first that many locals of every
// host are its *delegates*, one a stripe. The delegates of a stripe form a ring with one rank a host. So all stripes
// together cross a host's link as often as the messages of one rank would, and with the same number of ranks on every
// host all of them take part.

#include <vector>

#include "collectives/ring.h"
#include "collectives/topology.h"

namespace merak {

struct Hierarchy {
  Hierarchy(const Topology& topology, int rank);

  std::vector<std::vector<int>> hosts;  // their ranks
  int host = 0;                         // this rank's
  int index = 0;                        // its place among the locals
  int stripes = 0;
  std::vector<int> delegates;  // of this rank's stripe, by host; empty if it is no delegate

  const std::vector<int>& locals() const { return hosts[host]; }
  bool is_delegate() const { return index < stripes; }
  std::vector<int> peers() const;  // the locals but this rank
  Ring ring() const { return {delegates, host}; }

  // The ranks of a host whose shards a stripe carries, in all-gather and reduce-scatter: every stripes-th.
  std::vector<int> served(int host, int stripe) const;
};

// Whether there are several hosts, and several ranks on one of them.
bool has_hierarchy(const Topology& topology);

// The most ranks that a host has.
int most_locals(const Topology& topology);

}  // namespace merak
