#pragma once
// Broadcast of a large message along a chain of ranks: each passes a segment on to its *next* while the following one
// arrives from its *previous*. In host-major order the chain enters each host once.
//
// Bytes on the wire: every rank but the root receives the message once, every rank but the last sends it once.
// Time, for V bytes in S segments of c: (S - 1) max(c b, 2m) + (n - 1) (a + 2m + c b), which tends to V b, the least
// possible, as V grows. chain.h says how c is chosen.

#include <cstddef>
#include <vector>

#include "collectives/chain.h"
#include "transport/program.h"

namespace merak {

// `order`: all ranks, the root first. `position`: this rank's place in it. Needs segment_bytes > 0.
Program chain_broadcast(const std::vector<int>& order, int position, std::size_t message_bytes,
                        std::size_t segment_bytes);

}  // namespace merak
