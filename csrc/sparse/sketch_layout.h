#pragma once
// Which rows share the cells of a lossy sketch, of which there are fewer than rows.
//
// A count sketch adds row i, times a random sign s, to the cell h(i) that a hash function says; s times that cell is an
// estimate of the row, which is right on the average. What is wrong with it is the rows that share the cell: with U
// rows in c cells, the expected square of the error of all estimates together is (U - 1) / c times the energy of all
// rows (row_energies.h). At U cells the noise is as strong as the signal.
//
// Here all ranks know how heavy each row is, before anything is sent. So:
//
// *Without feedback*, the m heaviest rows get cells of their own, and are exact; the others share the c - m that are
// left. The expected square of the error is then e(m) (U - m - 1) / (c - m), where e(m) is the energy of the others; m
// is where that is least. Estimates are unbiased.
//
// *With feedback* the c heaviest rows get a cell each, and the others none: every rank keeps its part of those, and
// adds it to what it has to send the next time. That is the top-k unsketch of FetchSGD without its estimates. What
// waits may be most of the table, so that a rank announces its 2c heaviest rows only; one that has more of a chosen row
// than it announced sends that, too. Of the P rows that any of n ranks has, the 2c heaviest of a rank have at least 2c
// / P of its energy; the chosen c, of 2cn at most, at least 1 / 2n of what is announced. So, over all ranks together,
// what is kept has at most 1 - c / nP of the energy of what there was (1 - c / P where the ranks announce the same
// rows), less what rounding norms to 8 bits may change. A sketch whose estimates are noise promises no such thing,
// and error feedback then diverges.
//
// Source: M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams", 2002; cells of their own
// for heavy items: C.-Y. Hsu et al., "Learning-based frequency estimation algorithms", 2019; S. Stich et al.,
// "Sparsified SGD with memory", 2018.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse/union_rows.h"

namespace merak {

struct SketchBudget {       // the same on all ranks
  std::uint64_t bytes = 0;  // of the cells
  std::uint64_t seed = 0;   // of hash and signs: another one each time
  bool feedback = true;

  bool operator==(const SketchBudget&) const = default;
};

inline constexpr std::size_t kAnnouncedRowsACell = 2;  // with feedback, by each rank

struct SketchLayout {
  static constexpr std::uint32_t kNoCell = UINT32_MAX;

  std::uint32_t cells = 0;
  // By row of the union.
  std::vector<std::uint32_t> cell_of;
  std::vector<std::int8_t> sign_of;  // -1, 1

  std::vector<std::uint32_t> placed() const;  // the rows that have a cell, ascending
};

// `energies`: by row of the union. Needs a cell at least; of more cells than rows the rest is not used.
SketchLayout lay_out_sketch(const UnionRows& rows, const std::vector<double>& energies, std::size_t cells,
                            const SketchBudget& budget);

}  // namespace merak
