#pragma once
// Reduce of a small message up a tree (tree.h): every rank receives from its children what their subtrees sum to, adds
// it to its own contribution, and sends the sum to its parent.
//
// Sums are built where the first child's message landed, so that no contribution is changed; at the root that is the
// output. Children that have less to wait for come first.
//
// Bytes on the wire: each rank but the root sends the message once; a host's link is left once.
// Time, for V bytes and a tree of d levels: d (a + 2m + V (b + g)), with a, b, m of the level's links.
// Scratch: the message once for each child.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

// `in_place`: the root's contribution stands in its output.
Program tree_reduce(const Topology& topology, int root, int rank, std::size_t message_bytes, bool in_place);

double tree_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs);

}  // namespace merak
