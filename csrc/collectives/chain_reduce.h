#pragma once
// Reduce of a large message along a chain of ranks that ends at the root: each rank adds its contribution to the
// segment that arrives from its *previous* and passes the sum on to its *next*. In host-major order, the root's host
// last, the chain leaves each host once.
//
// What arrives lands in a slot of scratch memory (slots.h), where the sum is made and from where it leaves, so that no
// contribution is changed; at the root it lands in the output.
//
// Bytes on the wire: every rank but the root sends the message once.
// Time, for V bytes in S segments of c: (S - 1) max(c b, 2m + c g) + (n - 1) (a + 2m + c (b + g)), which tends to V b,
// the least possible, as V grows. chain.h says how c is chosen.

#include <cstddef>
#include <vector>

#include "collectives/chain.h"
#include "transport/program.h"

namespace merak {

// `order`: all ranks, the root last. `position`: this rank's place in it. Needs segment_bytes > 0, whole elements.
// `in_place`: the root's contribution stands in its output.
Program chain_reduce(const std::vector<int>& order, int position, std::size_t message_bytes, std::size_t segment_bytes,
                     bool in_place);

}  // namespace merak
