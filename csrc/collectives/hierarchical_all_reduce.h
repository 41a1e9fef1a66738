#pragma once
// All-reduce where hosts have several ranks (hierarchy.h). The message is cut into *blocks* and each block into a
// stripe for each delegate. For every block: all locals send their contribution to a stripe to its delegate, which adds
// them; the delegates of a stripe all-reduce it around their ring; each sends the result to all locals.
//
// Blocks are independent: while one is between the hosts, others are added or handed out inside.
//
// Bytes on the wire: for h hosts and V bytes, 2 (h - 1)/h V leave each host, whatever the number of its ranks.
// Time: that of a ring of h ranks, and of one block inside before it and one after it. With r locals and s stripes a
// delegate handles (r - 1) / s of a block in each direction.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

Program hierarchical_all_reduce(const Topology& topology, int rank, std::size_t message_bytes,
                                std::size_t element_bytes);

double hierarchical_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs);

}  // namespace merak
