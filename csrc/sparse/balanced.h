#pragma once
// Sparse all-reduce by owners: each row of the union has one (deal.h); it receives what others contribute to the row,
// adds it up in the order of ranks, and sends the sum to all.
//
// An owner's rows stand in the order *shared* (several contributors), *home* (it alone contributes), *lent* (one other
// rank alone contributes; by that rank), each in ascending order. They are cut into *chunks* of one kind each. Chunk by
// chunk,
//
// 1. every rank packs what it contributes to the chunk, adding up rows that its input holds several times, and sends it
//    to the owner;
// 2. the owner adds up the contributions, its own among them, and sends the sums to every other rank, but those of a
//    lent chunk not to its contributor, which works them out by itself;
// 3. every rank puts the sums in their places in the output.
//
// Chunks overlap: while one is being added up the next one is under way, so that the wire never rests.
//
// Bytes on the wire: rank p sends out[p] and receives in[p] rows, as the deal says.
// Time: a + b (largest out or in), plus a chunk's way: it is sent, added up and sent on.
// Scratch: a few chunks for each rank.

#include <cstddef>

#include "sparse/contributions.h"
#include "sparse/deal.h"
#include "transport/program.h"

namespace merak {

// Needs chunk_bytes > 0; a chunk has one row at least.
Program balanced_all_reduce(const Contributions& contributions, const Deal& deal, std::size_t chunk_bytes);

}  // namespace merak
