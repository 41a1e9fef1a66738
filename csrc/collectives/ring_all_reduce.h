#pragma once
// All-reduce around a ring (ring.h), in place: a reduce-scatter, then an all-gather.
//
// Shard q is summed on its way around: it leaves position q, every position that it comes to adds its contribution and
// passes the sum on, and after n - 1 rounds position q - 1 holds the result. n - 1 more rounds carry the results
// around. Every shard is summed along one way, so all ranks get the same bits.
//
// What arrives in the first phase lands in one of a few slots of scratch memory (slots.h) and is added to the output.
//
// Bytes on the wire: every rank sends 2 (n - 1) / n of the message, the least possible.
// Time, for V bytes: 2 (n - 1) rounds of shards of V / n, so 2 (n - 1)/n V b for a large message.
// Source: P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.

#include <cstddef>

#include "collectives/ring.h"
#include "transport/program.h"

namespace merak {

// segment_bytes: whole elements.
Program ring_all_reduce(Ring ring, std::size_t message_bytes, std::size_t element_bytes, std::size_t segment_bytes);

double ring_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs);

}  // namespace merak
