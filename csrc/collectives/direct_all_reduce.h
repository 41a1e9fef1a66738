#pragma once
// All-reduce of a message of medium size in two exchanges: everyone sends every rank the contribution to that rank's
// shard; each rank adds what it gets to its own, and sends the sum to everyone.
//
// Every shard is summed in one place, so all ranks get the same bits.
//
// Bytes on the wire: every rank sends 2 (n - 1) / n of the message, the least possible.
// Time, for V bytes: 2 max(a + 2m + (n - 1)/n V b, 2 (n - 1) m) + (n - 1)/n V g: the ring's bytes, two latencies, but a
// message for each pair of ranks and exchange.
// Scratch: n - 1 shards.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

Program direct_all_reduce(int rank, int size, std::size_t message_bytes, std::size_t element_bytes);

double direct_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs);

}  // namespace merak
