#pragma once
// All-reduce of a small message by recursive doubling: in round i, ranks whose positions differ in bit i exchange their
// sums and add. After log2 n rounds everyone has everyone's.
//
// The *core* is the largest power of two of the ranks. Each of the ranks beyond it first gives its contribution to its
// *partner*, the core's rank at that distance, and gets the result from it at the end.
//
// Same bits everywhere: both sides of an exchange compute (sum of the lower position) op (sum of the upper position),
// with the operands in this order, so every rank evaluates the same tree; nothing is asked of `op` but to be a
// function.
//
// Bytes on the wire: every rank of the core sends the message log2 n times.
// Time, for V bytes: ceil(log2 n) (a + 2m + V (b + g)), and one round more where n is no power of two.
// In rounds between hosts the ranks of one share its link.
// Scratch: the message once a round, so that every receive is permitted at once.
// Source: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.

#include <cstddef>
#include <vector>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

// `order`: all ranks; neighbours in it meet in the first rounds. `position`: this rank's place in it.
Program doubling_all_reduce(const std::vector<int>& order, int position, std::size_t message_bytes);

double doubling_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs);

}  // namespace merak
