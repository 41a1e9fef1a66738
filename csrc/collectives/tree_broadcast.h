#pragma once
// Broadcast of a small message down a tree (tree.h): every rank receives the message whole from its parent and sends
// it to its children, the child with the largest subtree first.
//
// Bytes on the wire: each rank but the root receives the message once; a host's link is entered once.
// Time, for V bytes and a tree of d levels: d (a + 2m + V b), with a, b, m of the level's links. It takes the fewest
// rounds, log2 n, and is the choice while V b is small beside a; above, the chain sends every byte but once.
// Source: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

Program tree_broadcast(const Topology& topology, int root, int rank, std::size_t message_bytes);

double tree_broadcast_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs);

}  // namespace merak
