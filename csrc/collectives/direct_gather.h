#pragma once
// Gather: every rank sends its shard to the root.
//
// All of it enters by the root's link, so no algorithm takes less time on it. Were all ranks to send large shards at
// once, their bursts would overrun the last switch's queue and be sent again; so the root grants each shard only when
// the last but one has come, which keeps its link busy in between.
//
// Bytes on the wire: n - 1 shards reach the root; its link is entered by those of other hosts.
// Time, for shards of V bytes: a + 2m + V b + (n - 2) max(V b, m), as that of direct_scatter.h.

#include <cstddef>

#include "transport/program.h"

namespace merak {

// `in_place`: the root's shard stands in its place of the output.
Program direct_gather(int rank, int size, int root, std::size_t shard_bytes, bool in_place);

}  // namespace merak
