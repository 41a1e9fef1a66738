#pragma once
// Reduce-scatter around a ring (ring.h). Shard q leaves position q + 1, every position that it comes to adds its
// contribution and passes the sum on, and after n - 1 rounds position q adds the last one, in its output.
//
// The input stays as it is: sums are made in slots of scratch memory (slots.h), where they landed, and leave from there
// a round later. So that little memory is enough, a long shard is cut into *laps*: each goes all the way around before
// the next, and a lap's shards are a few segments. The slots hold three rounds of a lap: one on its way in, one being
// added to, one on its way out. With no more than one round's they would wait for each other around the ring forever.
//
// Bytes on the wire: every rank sends n - 1 shards, the least possible.
// Time, for shards of V bytes: (n - 1) rounds, so (n - 1) V b for large ones.
// Source: as ring_all_reduce.h.

#include <cstddef>

#include "collectives/ring.h"
#include "transport/program.h"

namespace merak {

// segment_bytes: whole elements.
Program ring_reduce_scatter(Ring ring, std::size_t shard_bytes, std::size_t segment_bytes);

}  // namespace merak
