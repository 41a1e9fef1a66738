#pragma once
// All-gather of small shards: everyone sends its shard to everyone, first to the rank after it.
//
// Bytes on the wire: every rank sends its shard n - 1 times.
// Time, for shards of V bytes: max(a + 2m + (n - 1) V b, 2 (n - 1) m): one latency, but a message for each pair of
// ranks.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

// `in_place`: this rank's shard stands in its place of the output.
Program direct_all_gather(int rank, int size, std::size_t shard_bytes, bool in_place);

double direct_all_gather_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs);

}  // namespace merak
