#include "sparse/peeling.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "sparse/rows_of_cells.h"

namespace merak {
namespace {

constexpr std::uint64_t kSeeds = 8;
constexpr std::uint32_t kFewestCells = 8;  // of a part: in smaller ones rows often share all three cells

constexpr std::uint32_t kNoCell = UINT32_MAX;

// What is known of a cell while rows are peeled: how many are left in it, and the exclusive or of their numbers, which
// is the number of the last one.
struct Cell {
  std::uint32_t rows = 0, which = 0;
};

PeelingPlan place_rows(const std::vector<std::uint32_t>& ids, std::uint64_t seed, std::uint32_t part_cells) {
  PeelingPlan plan{RowHash{seed}, part_cells, {}, {}, {}};
  plan.cells_of.reserve(ids.size());
  for (std::uint32_t id : ids) {
    auto& cells = plan.cells_of.emplace_back();
    for (std::uint32_t part = 0; part < kSketchParts; ++part)
      cells[part] = part * part_cells + plan.hash.cell(id, part, part_cells);
  }
  return plan;
}

// Fills in the rounds; whether they recover all rows.
bool find_rounds(PeelingPlan& plan) {
  std::vector<Cell> cells(plan.cells());
  for (std::uint32_t row = 0; row < plan.rows(); ++row)
    for (std::uint32_t cell : plan.cells_of[row]) ++cells[cell].rows, cells[cell].which ^= row;
  std::vector<std::uint32_t> alone;  // cells with one row
  for (std::uint32_t cell = 0; cell < cells.size(); ++cell)
    if (cells[cell].rows == 1) alone.push_back(cell);
  plan.cell_of.assign(plan.rows(), kNoCell);
  std::size_t found = 0;
  while (!alone.empty()) {
    std::vector<std::uint32_t>& round = plan.rounds.emplace_back();
    for (std::uint32_t cell : alone) {
      const std::uint32_t row = cells[cell].which;
      if (plan.cell_of[row] != kNoCell) continue;  // alone in another cell, too
      round.push_back(row), plan.cell_of[row] = cell;
    }
    found += round.size(), alone.clear();
    for (std::uint32_t row : round)
      for (std::uint32_t cell : plan.cells_of[row]) --cells[cell].rows, cells[cell].which ^= row;
    for (std::uint32_t row : round)
      for (std::uint32_t cell : plan.cells_of[row])
        if (cells[cell].rows == 1) alone.push_back(cell);
  }
  return found == plan.rows();
}

}  // namespace

std::optional<PeelingPlan> plan_peeling(const std::vector<std::uint32_t>& ids, double cells_a_row) {
  const double part = std::ceil(cells_a_row * static_cast<double>(ids.size()) / kSketchParts);
  const std::uint32_t part_cells = std::max(kFewestCells, static_cast<std::uint32_t>(part));
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed)
    if (PeelingPlan plan = place_rows(ids, seed, part_cells); find_rounds(plan)) return plan;
  return std::nullopt;
}

RowSums sketch_sums(const PeelingPlan& plan, const std::vector<std::uint32_t>& mine, std::size_t row_bytes) {
  std::vector<std::pair<std::uint32_t, std::uint32_t>> placed;  // cell, row of the input
  placed.reserve(mine.size() * kSketchParts);
  for (std::uint32_t i = 0; i < mine.size(); ++i)
    for (std::uint32_t cell : plan.cells_of[mine[i]]) placed.emplace_back(cell, i);
  std::sort(placed.begin(), placed.end());
  RowSums sums(row_bytes);
  for (std::size_t i = 0; i < placed.size(); ++i) {
    sums.add(placed[i].second);
    if (i + 1 == placed.size() || placed[i + 1].first != placed[i].first) sums.end_row(placed[i].first);
  }
  return sums;
}

std::vector<std::uint32_t> PeelingPlan::other_cells() const {
  std::vector<bool> gives_a_row(cells());
  for (std::uint32_t cell : cell_of) gives_a_row[cell] = true;
  std::vector<std::uint32_t> others;
  for (std::uint32_t cell = 0; cell < cells(); ++cell)
    if (!gives_a_row[cell]) others.push_back(cell);
  return others;
}

std::vector<RowSums> peeling_sums(const PeelingPlan& plan, std::size_t row_bytes) {
  const RowsOfCells in(plan.cells(), [&](auto visit) {
    for (std::uint32_t row = 0; row < plan.rows(); ++row)
      for (std::uint32_t cell : plan.cells_of[row]) visit(cell, row);
  });
  // What is left of a cell without its rows, but one.
  const auto leave = [&](RowSums& sums, std::uint32_t cell, std::uint32_t but) {
    const std::span<const std::uint32_t> rows = in[cell];
    if (rows.empty() || (rows.size() == 1 && rows[0] == but)) return;  // it is as it should be
    sums.add(cell);
    for (std::uint32_t row : rows)
      if (row != but) sums.subtract(plan.cell_of[row]);
    sums.end_row(cell);
  };
  constexpr std::uint32_t kNoRow = UINT32_MAX;
  std::vector<RowSums> all;
  for (const std::vector<std::uint32_t>& round : plan.rounds) {
    RowSums& sums = all.emplace_back(row_bytes);
    for (std::uint32_t row : round) leave(sums, plan.cell_of[row], row);
  }
  RowSums& remains = all.emplace_back(row_bytes);
  for (std::uint32_t cell : plan.other_cells()) leave(remains, cell, kNoRow);
  return all;
}

}  // namespace merak
