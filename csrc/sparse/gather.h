#pragma once
// Sparse all-reduce by all-gather: every rank sends its rows to all others, and everyone adds up everything in the
// order of ranks. One exchange: the fastest for few rows, and for two ranks as good as any.
//
// Each rank's rows travel in ascending order and in segments, the next segment to all others before the one after it.
// A part of the union is added up as soon as all ranks' rows up to its end have arrived.
//
// Bytes on the wire: rank p sends (n - 1) times its rows, and receives everyone else's.
// Time: a + b max((n - 1) k_p, sum of the other k), plus the last part's sums.
// Scratch: the rows of all ranks.

#include <cstddef>

#include "sparse/contributions.h"

namespace merak {

// Needs segment_bytes > 0; a segment has one row at least.
Program gather_all_reduce(const Contributions& contributions, std::size_t segment_bytes);

}  // namespace merak
