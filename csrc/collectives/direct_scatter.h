#pragma once
// Scatter: the root sends every rank its shard, first to the rank after it.
//
// All that is to be sent leaves the root's link, so no algorithm takes less time on it. Large shards leave one after
// another, so that the first ranks are done early: each waits until the last but one has left, which keeps the link
// busy in between.
//
// Bytes on the wire: n - 1 shards leave the root; its link is left by those for other hosts.
// Time, for shards of V bytes: a + 2m + V b + (n - 2) max(V b, m).

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

// `in_place`: the root's shard need not be copied to its output.
Program direct_scatter(int rank, int size, int root, std::size_t shard_bytes, bool in_place);

// Of direct_gather too. `center`: the root.
double direct_scatter_seconds(const Topology& topology, int center, std::size_t shard_bytes, const Costs& costs);

}  // namespace merak
