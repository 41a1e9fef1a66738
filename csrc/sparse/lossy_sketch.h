#pragma once
// An all-reduce by a sketch of fewer cells than rows (sketch_layout.h): every rank adds its rows to the cells, each
// times its sign, a dense all-reduce adds up the cells, and every rank reads the rows from them.
//
// It needs a sum of arrays of a size that is known beforehand, and nothing else of the fabric.
//
// Bytes on the wire and time: those of the dense all-reduce of the cells. Scratch: the cells.
//
// Source: M. Charikar et al., "Finding frequent items in data streams", 2002.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse/contributions.h"
#include "sparse/sketch_layout.h"
#include "sparse/strips.h"

namespace merak {

// Rows of the table, ascending.
struct SketchResult {
  std::vector<std::uint32_t> estimated;  // of which there are estimates, the same on all ranks
  std::vector<std::uint32_t> kept;       // which this rank has, and keeps since they have no cell
};
// `own`: of this rank, which may have rows that it did not announce, so that they are not in the union.
SketchResult sketch_result(const UnionRows& rows, const Bitmap& own, const SketchLayout& layout);

// The output: the estimates, laid out as contributions.h has it; behind them, where `keep`, what this rank keeps, laid
// out likewise. `result`: sketch_result() of this rank.
Program lossy_all_reduce(const Contributions& contributions, const SketchLayout& layout, const SketchResult& result,
                         const DenseWays& ways, bool keep);

}  // namespace merak
