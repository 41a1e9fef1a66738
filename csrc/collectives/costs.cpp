#include "collectives/costs.h"

#include <algorithm>

namespace merak {

LinkCosts inside_link(const Costs& costs) {
  return {costs.latency_inside_s, costs.seconds_per_byte_inside, costs.per_message_s, costs.reduce_seconds_per_byte};
}

LinkCosts between_link(const Costs& costs) {
  return {costs.latency_s, costs.seconds_per_byte, costs.per_message_s, costs.reduce_seconds_per_byte};
}

LinkCosts chain_link(const Topology& topology, const Costs& costs) {
  const std::vector<int>& host = topology.host_of;
  const bool one_host = std::equal(host.begin() + 1, host.end(), host.begin());
  return one_host ? inside_link(costs) : between_link(costs);
}

LinkCosts average_link(const Topology& topology, const Costs& costs) {
  const double hosts = static_cast<double>(ranks_by_host(topology).size());
  const double crossing = hosts > 1 ? hosts / topology.size() : 0;  // of all links in the ring
  const auto mix = [&](double between, double inside) { return crossing * between + (1 - crossing) * inside; };
  return {mix(costs.latency_s, costs.latency_inside_s), mix(costs.seconds_per_byte, costs.seconds_per_byte_inside),
          costs.per_message_s, costs.reduce_seconds_per_byte};
}

LinkCosts shared_link(const Topology& topology, const Costs& costs) {
  LinkCosts link = inside_link(costs);
  const double size = topology.size();
  for (const std::vector<int>& host : ranks_by_host(topology)) {
    const double here = static_cast<double>(host.size());
    if (here == size) return link;
    const double crossing = (size - here) / (size - 1);  // of what a rank sends
    LinkCosts shared = between_link(costs);
    shared.seconds_per_byte *= here * crossing;
    if (shared.seconds_per_byte > link.seconds_per_byte) link = shared;
  }
  return link;
}

}  // namespace merak
