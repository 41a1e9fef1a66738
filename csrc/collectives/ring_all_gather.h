#pragma once
// All-gather around a ring (ring.h): in round i every rank passes on the shard that it received in round i - 1, first
// its own.
//
// Bytes on the wire: every rank sends n - 1 shards, the least possible.
// Time, for shards of V bytes: (n - 1) rounds, so (n - 1) V b for large ones.

#include <cstddef>

#include "collectives/ring.h"
#include "transport/program.h"

namespace merak {

// `in_place`: this rank's shard stands in its place of the output.
Program ring_all_gather(Ring ring, std::size_t shard_bytes, std::size_t segment_bytes, bool in_place);

}  // namespace merak
