#include "collectives/simulated.h"

#include <stdexcept>

#include "collectives/algorithms.h"

namespace merak {

SimulatedCluster simulated_cluster(const Topology& topology, const Costs& costs) {
  return {.host_of = topology.host_of,
          .latency_s = costs.latency_s,
          .latency_inside_s = costs.latency_inside_s,
          .seconds_per_byte = costs.seconds_per_byte,
          .seconds_per_byte_inside = costs.seconds_per_byte_inside,
          .per_message_s = costs.per_message_s,
          .reduce_seconds_per_byte = costs.reduce_seconds_per_byte};
}

Simulation simulate_algorithm(const std::string& algorithm, const CollectiveShape& shape, const Topology& topology,
                              const Costs& costs, bool with_trace) {
  for (const Algorithm& candidate : algorithms())
    if (candidate.name == algorithm && candidate.kind == shape.kind && candidate.fits(shape, topology))
      return simulate(
          simulated_cluster(topology, costs),
          [&](int rank) {
            return candidate.program({shape, rank, topology}, costs);
          },
          with_trace);
  throw std::invalid_argument("no algorithm '" + algorithm + "' fits this shape: candidates() lists those that do");
}

}  // namespace merak
