#pragma once
// Barrier by dissemination: in round i = 0, 1, ..., every rank tells the rank 2^i after it, and hears from the rank 2^i
// before it, that it and all it has heard of have arrived. After ceil(log2 n) rounds everyone has heard of everyone.
//
// Bytes on the wire: none but the frames of ceil(log2 n) empty messages a rank.
// Time: ceil(log2 n) (a + 2m).
// Source: D. Hensgen, R. Finkel, U. Manber, "Two algorithms for barrier synchronization", 1988.

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

Program dissemination_barrier(int rank, int size);

double dissemination_barrier_seconds(const Topology& topology, const Costs& costs);

}  // namespace merak
