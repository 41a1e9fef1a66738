#include "sparse/peeling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <type_traits>

#include "sparse/whole_rows.h"

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

// By cell, the rows that were added to it.
struct RowsOfCells {
  explicit RowsOfCells(const PeelingPlan& plan) : first(plan.cells() + 2), rows(kSketchParts * plan.cells_of.size()) {
    for (const auto& cells : plan.cells_of)
      for (std::uint32_t cell : cells) ++first[cell + 2];
    std::partial_sum(first.begin(), first.end(), first.begin());
    for (std::uint32_t row = 0; row < plan.cells_of.size(); ++row)
      for (std::uint32_t cell : plan.cells_of[row]) rows[first[cell + 1]++] = row;
  }

  std::span<const std::uint32_t> operator[](std::uint32_t cell) const {
    return {rows.data() + first[cell], rows.data() + first[cell + 1]};
  }

  std::vector<std::uint32_t> first, rows;
};

MERAK_VECTORISE

template <class Integer>
struct Peeler {
  static constexpr std::size_t kStrip = kCpuStrip<Integer>;

  const RowsOfCells& in;
  const Integer* sketch;
  Integer* rows;
  std::size_t lanes;

  // Recovers row `turn.row`: what is left of its cell without the others there, which had their turns before.
  void recover(PeelingPlan::Turn turn, PeelingPlan::Turn next) const {
    for_each_strip([&](std::size_t begin, auto count) {
      fetch(next, begin);
      Integer left[kStrip];
      take(left, turn, begin, count);
      for (std::size_t j = 0; j < count; ++j) rows[turn.row * lanes + begin + j] = left[j];
    });
  }

  // Whether a cell holds its rows and nothing else.
  bool is_accounted_for(std::uint32_t cell) const {
    Integer any = 0;
    for_each_strip([&](std::size_t begin, auto count) {
      Integer left[kStrip];
      take(left, {kNoRow, cell}, begin, count);
      for (std::size_t j = 0; j < count; ++j) any |= left[j];
    });
    return any == 0;
  }

 private:
  static constexpr std::uint32_t kNoRow = UINT32_MAX;

  template <class Visit>
  void for_each_strip(Visit visit) const {
    std::size_t begin = 0;
    for (; begin + kStrip <= lanes; begin += kStrip) visit(begin, std::integral_constant<std::size_t, kStrip>());
    if (begin < lanes) visit(begin, lanes - begin);
  }

  // What is in the turn's cell besides the rows other than its own.
  template <class Count>
  void take(Integer* left, PeelingPlan::Turn turn, std::size_t begin, Count count) const {
    for (std::size_t j = 0; j < count; ++j) left[j] = sketch[turn.cell * lanes + begin + j];
    for (std::uint32_t other : in[turn.cell]) {
      if (other == turn.row) continue;
      const Integer* values = rows + other * lanes + begin;
      for (std::size_t j = 0; j < count; ++j) left[j] -= values[j];
    }
  }

  void fetch(PeelingPlan::Turn turn, std::size_t begin) const {
    constexpr std::size_t kLine = 64 / sizeof(Integer);
    for (std::size_t j = begin; j < begin + kStrip; j += kLine) __builtin_prefetch(sketch + turn.cell * lanes + j);
    for (std::uint32_t other : in[turn.cell])
      for (std::size_t j = begin; j < begin + kStrip; j += kLine) __builtin_prefetch(rows + other * lanes + j);
  }
};

MERAK_VECTORISE_END

template <class Integer>
bool peel_integers(const PeelingPlan& plan, const Integer* sketch, std::size_t lanes, Integer* rows) {
  const RowsOfCells in(plan);
  const Peeler<Integer> peeler{in, sketch, rows, lanes};
  std::vector<bool> is_used(plan.cells());  // up: nothing is left in it
  for (std::size_t i = 0; i < plan.turns.size(); ++i) {
    peeler.recover(plan.turns[i], plan.turns[std::min(i + 1, plan.turns.size() - 1)]);
    is_used[plan.turns[i].cell] = true;
  }
  bool whole = true;
  for (std::uint32_t cell = 0; cell < plan.cells(); ++cell)
    if (!is_used[cell]) whole &= peeler.is_accounted_for(cell);
  return whole;
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

bool peel(const PeelingPlan& plan, const std::uint32_t* sketch, std::size_t lanes, std::uint32_t* rows) {
  return peel_integers(plan, sketch, lanes, rows);
}

bool peel(const PeelingPlan& plan, const std::uint64_t* sketch, std::size_t lanes, std::uint64_t* rows) {
  return peel_integers(plan, sketch, lanes, rows);
}

}  // namespace merak
