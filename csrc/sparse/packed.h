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

#include "sparse/contributions.h"
#include "sparse/strips.h"

namespace merak {

Program packed_all_reduce(const Contributions& contributions, const DenseWays& ways);
Program dense_all_reduce(const Contributions& contributions, const DenseWays& ways);

}  // namespace merak
