#pragma once
// Reduce-scatter of small shards: everyone sends every rank the contribution to that rank's shard; each rank adds what
// it gets in order of rank, beginning with the rank after it and ending with its own, which lands where it is wanted.
//
// Bytes on the wire: every rank sends n - 1 shards.
// Time, for shards of V bytes: max(a + 2m + (n - 1) V b, 2 (n - 1) m) + (n - 1) V g: one latency, but a message for
// each pair of ranks. Scratch: n - 2 shards.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

Program direct_reduce_scatter(int rank, int size, std::size_t shard_bytes);

double direct_reduce_scatter_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs);

}  // namespace merak
