#pragma once
// Puts the formulas of this room beside the simulator: the same costs, event by event.

#include "collectives/choose.h"
#include "transport/simulate.h"

namespace merak {

SimulatedCluster simulated_cluster(const Topology& topology, const Costs& costs);

// Of one algorithm, by its name. Throws std::invalid_argument when it does not fit the shape.
Simulation simulate_algorithm(const std::string& algorithm, const CollectiveShape& shape, const Topology& topology,
                              const Costs& costs, bool with_trace = false);

}  // namespace merak
