#pragma once
// Sparse all-reduce by all-gather: every rank sends its rows to all others, and everyone adds up everything in the
// order of ranks. One exchange: the fastest for few rows, and for two ranks as good as any.
//
// The union is cut into *parts* of neighbouring rows. Part by part, every rank packs what it contributes, sends it to
// all others, and adds up what it gets; parts overlap, so that the wire never rests.
//
// Bytes on the wire: rank p sends (n - 1) times its rows, and receives everyone else's.
// Time: a + b max((n - 1) k_p, sum of the other k), plus the last part's sums.
// Scratch: a few parts.

#include <cstddef>

#include "sparse/contributions.h"

namespace merak {

// Needs part_bytes > 0: about what all ranks together contribute to a part; a part has one row of the union at least.
Program gather_all_reduce(const Contributions& contributions, std::size_t part_bytes);

}  // namespace merak
