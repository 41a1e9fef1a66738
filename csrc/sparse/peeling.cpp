#include "sparse/peeling.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace merak {
namespace {

constexpr std::uint64_t kSeeds = 8;
constexpr std::uint32_t kFewestCells = 8;  // of a part: in smaller ones rows often share all three cells

// What is known of a cell while rows are peeled: how many are left in it, and the exclusive or of their numbers, which
// is the number of the last one.
struct Cell {
  std::uint32_t rows = 0, which = 0;
};

PeelingPlan place_rows(const std::vector<std::uint32_t>& ids, std::uint64_t seed, std::uint32_t part_cells) {
  PeelingPlan plan{RowHash{seed}, part_cells, {}, {}};
  plan.cells_of.reserve(ids.size());
  for (std::uint32_t id : ids) {
    auto& cells = plan.cells_of.emplace_back();
    for (std::uint32_t part = 0; part < kSketchParts; ++part)
      cells[part] = part * part_cells + plan.hash.cell(id, part, part_cells);
  }
  return plan;
}

// Fills in the turns; whether they are all.
bool find_turns(PeelingPlan& plan) {
  std::vector<Cell> cells(plan.cells());
  for (std::uint32_t row = 0; row < plan.cells_of.size(); ++row)
    for (std::uint32_t cell : plan.cells_of[row]) ++cells[cell].rows, cells[cell].which ^= row;
  std::vector<std::uint32_t> alone;
  for (std::uint32_t cell = 0; cell < cells.size(); ++cell)
    if (cells[cell].rows == 1) alone.push_back(cell);
  plan.turns.reserve(plan.cells_of.size());
  while (!alone.empty()) {
    const std::uint32_t cell = alone.back();
    alone.pop_back();
    if (cells[cell].rows != 1) continue;  // its row was found in another cell meanwhile
    const std::uint32_t row = cells[cell].which;
    plan.turns.push_back({row, cell});
    for (std::uint32_t other : plan.cells_of[row]) {
      --cells[other].rows, cells[other].which ^= row;
      if (cells[other].rows == 1) alone.push_back(other);
    }
  }
  return plan.turns.size() == plan.cells_of.size();
}

template <class Integer>
bool peel_integers(const PeelingPlan& plan, Integer* sketch, std::size_t lanes, Integer* rows) {
  for (const PeelingPlan::Turn& turn : plan.turns) {
    Integer* row = rows + turn.row * lanes;
    std::memcpy(row, sketch + turn.cell * lanes, lanes * sizeof(Integer));
    for (std::uint32_t cell : plan.cells_of[turn.row]) {
      Integer* from = sketch + cell * lanes;
      for (std::size_t lane = 0; lane < lanes; ++lane) from[lane] -= row[lane];
    }
  }
  return std::all_of(sketch, sketch + plan.cells() * lanes, [](Integer left) { return left == 0; });
}

}  // namespace

std::optional<PeelingPlan> plan_peeling(const std::vector<std::uint32_t>& ids, double cells_a_row) {
  const double part = std::ceil(cells_a_row * static_cast<double>(ids.size()) / kSketchParts);
  const std::uint32_t part_cells = std::max(kFewestCells, static_cast<std::uint32_t>(part));
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed)
    if (PeelingPlan plan = place_rows(ids, seed, part_cells); find_turns(plan)) return plan;
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

bool peel(const PeelingPlan& plan, std::uint32_t* sketch, std::size_t lanes, std::uint32_t* rows) {
  return peel_integers(plan, sketch, lanes, rows);
}

bool peel(const PeelingPlan& plan, std::uint64_t* sketch, std::size_t lanes, std::uint64_t* rows) {
  return peel_integers(plan, sketch, lanes, rows);
}

}  // namespace merak
