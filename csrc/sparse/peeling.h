#pragma once
// A sketch from which known rows are recovered exactly, by peeling.
//
// The sketch has three *parts* of equally many cells, each as wide as a row; a row is added to one cell of each part,
// by three hash functions. Sketches of different ranks add up to the sketch of the sum. When the rows in it are known,
// those that are alone in a cell are read from it and subtracted from their other two cells, which may leave other rows
// alone there, and so on: *peeling*. It ends with all rows recovered, almost surely, when there are 1.3 cells a row or
// more; below 1.22 it almost surely does not.
//
// Which rows are in the sketch tells whether peeling will succeed and in what order, before anything is sent. So a plan
// tries seeds until one succeeds. It peels in *rounds*: all rows that are alone in some cell at once. There are some
// fifteen, and as sums of rows (transport/row_sums.h), they are steps of a program.
//
// Values must add up exactly and subtract exactly: integers, which wrap around (fixed_point.h makes them).
//
// Source: H. Li et al., "Lossless homomorphic compression", 2024; for the threshold, M. Molloy, "Cores in random
// hypergraphs and Boolean formulas", 2005.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "sparse/row_hash.h"
#include "transport/row_sums.h"

namespace merak {

inline constexpr std::uint32_t kSketchParts = 3;

struct PeelingPlan {
  RowHash hash;
  std::uint32_t part_cells = 0;
  // The cells of each row, one in each part, all parts counted together.
  std::vector<std::array<std::uint32_t, kSketchParts>> cells_of;
  // The rounds, each with the rows that are alone in some cell then. Rows count as in the list that the plan is for.
  std::vector<std::vector<std::uint32_t>> rounds;
  std::vector<std::uint32_t> cell_of;  // by row: that cell

  std::uint32_t cells() const { return kSketchParts * part_cells; }
  std::uint32_t rows() const { return static_cast<std::uint32_t>(cells_of.size()); }
  std::vector<std::uint32_t> other_cells() const;  // in which no row is recovered, ascending
};

// For rows of those ids, all different. Nothing if no seed among the first few succeeds with that many cells a row.
std::optional<PeelingPlan> plan_peeling(const std::vector<std::uint32_t>& ids, double cells_a_row);

// What a rank that has rows `mine` (indices into the plan's list; row i of its input) adds to the cells: sums for cells
// that get something.
RowSums sketch_sums(const PeelingPlan& plan, const std::vector<std::uint32_t>& mine, std::size_t row_bytes);

// What recovers the rows of a sketch in place, one after the other: then row i lies in cell_of[i], and the other cells
// are zero, unless something else was in the sketch: the certificate.
//
// A row is its cell less the other rows there, recovered in rounds before. Memory traffic, with C cells and R rows:
// C + 2 R rows are read and C written at most, where subtracting each row from its other cells would read 3 R and write
// 2 R, and read C more to look for remains.
std::vector<RowSums> peeling_sums(const PeelingPlan& plan, std::size_t row_bytes);

}  // namespace merak
