#include "collectives/topology.h"

#include <algorithm>
#include <map>

namespace merak {

Topology uniform_topology(int hosts, int ranks_per_host) {
  Topology topology;
  for (int host = 0; host < hosts; ++host) topology.host_of.insert(topology.host_of.end(), ranks_per_host, host);
  return topology;
}

std::vector<std::vector<int>> ranks_by_host(const Topology& topology) {
  std::map<int, std::size_t> seen;  // host -> its place in `hosts`
  std::vector<std::vector<int>> hosts;
  for (int rank = 0; rank < topology.size(); ++rank) {
    const auto [at, is_new] = seen.try_emplace(topology.host_of[rank], hosts.size());
    if (is_new) hosts.emplace_back();
    hosts[at->second].push_back(rank);
  }
  return hosts;
}

std::vector<int> host_major_order(const Topology& topology, int first) {
  std::vector<int> order;
  order.reserve(topology.size());
  for (const std::vector<int>& host : ranks_by_host(topology)) order.insert(order.end(), host.begin(), host.end());
  if (first < 0) return order;
  const auto host = [&](int rank) { return topology.host_of[rank]; };
  const auto begin = std::find_if(order.begin(), order.end(), [&](int rank) { return host(rank) == host(first); });
  std::rotate(order.begin(), begin, order.end());
  const auto end = std::find_if(order.begin(), order.end(), [&](int rank) { return host(rank) != host(first); });
  std::rotate(order.begin(), std::find(order.begin(), end, first), end);
  return order;
}

int position_in(const std::vector<int>& order, int rank) {
  return static_cast<int>(std::find(order.begin(), order.end(), rank) - order.begin());
}

}  // namespace merak
