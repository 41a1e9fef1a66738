#include "collectives/hierarchy.h"

#include <algorithm>

namespace merak {
namespace {

bool is_smaller(const std::vector<int>& a, const std::vector<int>& b) { return a.size() < b.size(); }

}  // namespace

Hierarchy::Hierarchy(const Topology& topology, int rank) : hosts(ranks_by_host(topology)) {
  while (topology.host_of[hosts[host].front()] != topology.host_of[rank]) ++host;
  index = position_in(locals(), rank);
  stripes = static_cast<int>(std::min_element(hosts.begin(), hosts.end(), is_smaller)->size());
  if (!is_delegate()) return;
  for (const std::vector<int>& ranks : hosts) delegates.push_back(ranks[index]);
}

std::vector<int> Hierarchy::peers() const {
  std::vector<int> peers = locals();
  peers.erase(peers.begin() + index);
  return peers;
}

std::vector<int> Hierarchy::served(int of_host, int stripe) const {
  std::vector<int> served;
  for (std::size_t i = stripe; i < hosts[of_host].size(); i += stripes) served.push_back(hosts[of_host][i]);
  return served;
}

bool has_hierarchy(const Topology& topology) {
  const std::size_t hosts = ranks_by_host(topology).size();
  return hosts > 1 && hosts < topology.host_of.size();
}

int most_locals(const Topology& topology) {
  const std::vector<std::vector<int>> hosts = ranks_by_host(topology);
  return static_cast<int>(std::max_element(hosts.begin(), hosts.end(), is_smaller)->size());
}

}  // namespace merak
