#pragma once
// What chains share: segments pass from rank to rank, so that a rank sends one while it receives the next.

#include <cstddef>

#include "collectives/costs.h"

namespace merak {

// The best segment for a chain in host-major order, whole elements: c = sqrt(m V / D) balances the time that the last
// rank waits for its first segment, c D, with the work on V / c segments of m seconds each. D is the sum of b over the
// links of the chain but the slowest: with one rank a host, (n - 2) b.
std::size_t chain_segment_bytes(const Topology& topology, std::size_t message_bytes, std::size_t element_bytes,
                                const Costs& costs);

// Seconds along a chain in host-major order; `reduces`: each rank adds what it receives.
double chain_seconds(const Topology& topology, std::size_t message_bytes, bool reduces, const Costs& costs);

}  // namespace merak
