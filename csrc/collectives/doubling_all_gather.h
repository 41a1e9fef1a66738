#pragma once
// All-gather of small shards in ceil(log2 n) rounds: in round i = 0, 1, ... every rank sends all that it has, its own
// shard and those of the 2^i - 1 ranks after it, to the rank 2^i before it. In the last round it sends only what is
// still missing there.
//
// Shards go straight to their place in the output; where their run wraps around its end, they are two messages.
//
// Bytes on the wire: every rank sends n - 1 shards, the least possible.
// Time, for shards of V bytes: ceil(log2 n) (a + 2m) + (n - 1) V b.
// Source: J. Bruck et al., "Efficient algorithms for all-to-all communications in multiport message-passing systems",
// 1997; without its local rotations.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

// `in_place`: this rank's shard stands in its place of the output.
Program doubling_all_gather(int rank, int size, std::size_t shard_bytes, bool in_place);

double doubling_all_gather_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs);

}  // namespace merak
