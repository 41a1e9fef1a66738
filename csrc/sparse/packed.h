#pragma once
// Sparse all-reduce of packed rows: the rows of the union lie one behind the other on every rank, those that a rank
// does not have as zeros, and a dense all-reduce adds them up. And without the packing: of the whole table.
//
// For unions that nearly all ranks have in common, or that are nearly the whole table.
//
// Bytes on the wire and time: those of the dense all-reduce (collectives/choose.h) of the union, or of the table.
// Sums are made in its order, the same on all ranks and from run to run.
// Scratch: that of the dense one. dense_all_reduce needs the table besides, and packed_all_reduce the union's rows
// where the output is a table.

#include <cstddef>

#include "collectives/choose.h"
#include "sparse/contributions.h"

namespace merak {

// The collective is that of the costs as they stand in costs.h, and not as measured: so the order of sums is the same
// from run to run.
struct DenseWays {  // how to reduce densely
  const Topology& topology;
  std::size_t element_bytes;
};

Program packed_all_reduce(const Contributions& contributions, const DenseWays& ways);
Program dense_all_reduce(const Contributions& contributions, const DenseWays& ways);

}  // namespace merak
