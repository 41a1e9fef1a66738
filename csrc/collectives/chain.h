#pragma once
// What chains share: segments pass from rank to rank, so that a rank sends one while it receives the next.

#include <cstddef>

#include "collectives/costs.h"

namespace merak {

// The best segment for a chain of `size` ranks, whole elements: c = sqrt(m V / ((n - 2) b)) balances the time that the
// last rank waits for its first segment, (n - 2) c b, with the work on V / c segments of m seconds each.
std::size_t chain_segment_bytes(int size, std::size_t message_bytes, std::size_t element_bytes, const LinkCosts& link);

// Seconds along a chain; `reduces`: each rank adds what it receives.
double chain_seconds(int size, std::size_t message_bytes, bool reduces, const LinkCosts& link);

}  // namespace merak
