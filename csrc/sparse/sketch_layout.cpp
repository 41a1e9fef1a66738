#include "sparse/sketch_layout.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "sparse/row_hash.h"

namespace merak {
namespace {

using Rows = std::vector<std::uint32_t>;

// Rows of the union, the heaviest first; of equally heavy ones the lower.
Rows by_weight(const std::vector<double>& energies) {
  Rows rows(energies.size());
  std::iota(rows.begin(), rows.end(), 0u);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return energies[a] > energies[b]; });
  return rows;
}

// How many of the heaviest get cells of their own, where the others share the rest.
std::size_t least_noise(const Rows& heaviest_first, const std::vector<double>& energies, std::size_t cells) {
  const std::size_t rows = heaviest_first.size();
  std::size_t best = 0;
  double least = std::numeric_limits<double>::infinity(), others = 0;
  for (std::size_t m = rows; m-- > 0;) {
    others += energies[heaviest_first[m]];
    if (m >= cells) continue;
    const double noise = others * static_cast<double>(rows - m - 1) / static_cast<double>(cells - m);
    if (noise <= least) least = noise, best = m;
  }
  return best;
}

}  // namespace

std::vector<std::uint32_t> SketchLayout::placed() const {
  Rows rows;
  for (std::uint32_t u = 0; u < cell_of.size(); ++u)
    if (cell_of[u] != kNoCell) rows.push_back(u);
  return rows;
}

SketchLayout lay_out_sketch(const UnionRows& rows, const std::vector<double>& energies, std::size_t cells,
                            const SketchBudget& budget) {
  cells = std::min(cells, rows.rows());
  const Rows heaviest_first = by_weight(energies);
  const bool all_fit = cells == rows.rows();
  const std::size_t alone = budget.feedback || all_fit ? cells : least_noise(heaviest_first, energies, cells);
  SketchLayout layout{static_cast<std::uint32_t>(cells), Rows(rows.rows(), SketchLayout::kNoCell),
                      std::vector<std::int8_t>(rows.rows(), 1)};
  // Those alone in the order of the table, as rows lie in memory.
  Rows heavy(heaviest_first.begin(), heaviest_first.begin() + static_cast<std::ptrdiff_t>(alone));
  std::sort(heavy.begin(), heavy.end());
  for (std::uint32_t cell = 0; cell < alone; ++cell) layout.cell_of[heavy[cell]] = cell;
  if (alone == cells) return layout;
  const RowHash hash{budget.seed};
  const auto shared = static_cast<std::uint32_t>(cells - alone);
  for (std::size_t i = alone; i < heaviest_first.size(); ++i) {
    const std::uint32_t u = heaviest_first[i], id = rows.ids[u];
    layout.cell_of[u] = static_cast<std::uint32_t>(alone) + hash.cell(id, 0, shared);
    layout.sign_of[u] = static_cast<std::int8_t>(hash.sign(id, 0));
  }
  return layout;
}

}  // namespace merak
