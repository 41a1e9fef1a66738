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

// Works on the rows strip by strip, as WholeRows does.
template <class Integer>
struct Peeler {
  static constexpr std::size_t kStrip = kCpuStrip<Integer>;
  static constexpr std::uint32_t kNoRow = UINT32_MAX;

  const RowsOfCells& in;
  const Integer* sketch;
  Integer* rows;
  std::size_t lanes;

  // Calls visit(begin, count, left) for each strip, with what is in the turn's cell besides the rows other than its
  // own.
  template <class Visit>
  void for_each_strip(PeelingPlan::Turn turn, Visit visit) const {
    Integer left[kStrip];
    const auto do_strip = [&](std::size_t begin, auto count) {
      take(left, turn, begin, count);
      visit(begin, count, left);
    };
    std::size_t begin = 0;
    for (; begin + kStrip <= lanes; begin += kStrip) do_strip(begin, std::integral_constant<std::size_t, kStrip>());
    if (begin < lanes) do_strip(begin, lanes - begin);
  }

  void fetch(PeelingPlan::Turn turn, std::size_t begin) const {
    fetch_strip<Integer, kStrip>(sketch + turn.cell * lanes + begin);
    for (std::uint32_t row : in[turn.cell]) fetch_strip<Integer, kStrip>(rows + row * lanes + begin);
  }

 private:
  template <class Count>
  void take(Integer* left, PeelingPlan::Turn turn, std::size_t begin, Count count) const {
    const Integer* cell = sketch + turn.cell * lanes + begin;
    for (std::size_t j = 0; j < count; ++j) left[j] = cell[j];
    for (std::uint32_t other : in[turn.cell]) {
      if (other == turn.row) continue;
      const Integer* values = rows + other * lanes + begin;
      for (std::size_t j = 0; j < count; ++j) left[j] -= values[j];
    }
  }
};

// The row of a turn: the others in its cell had their turns before.
template <class Integer>
struct RecoverRow {
  Peeler<Integer> peeler;
  std::span<const PeelingPlan::Turn> turns;

  void operator()(std::size_t i) const {
    const PeelingPlan::Turn turn = turns[i], next = turns[i + 1 < turns.size() ? i + 1 : i];
    peeler.for_each_strip(turn, [&](std::size_t begin, auto count, const Integer* left) {
      peeler.fetch(next, begin);
      Integer* row = peeler.rows + turn.row * peeler.lanes + begin;
      for (std::size_t j = 0; j < count; ++j) row[j] = left[j];
    });
  }
};

// Whether a cell holds the rows that were added to it, and nothing else.
template <class Integer>
struct IsAccountedFor {
  Peeler<Integer> peeler;

  bool operator()(std::size_t cell) const {
    Integer any = 0;
    peeler.for_each_strip({Peeler<Integer>::kNoRow, static_cast<std::uint32_t>(cell)},
                          [&](std::size_t, auto count, const Integer* left) {
                            for (std::size_t j = 0; j < count; ++j) any |= left[j];
                          });
    return any == 0;
  }
};

MERAK_VECTORISE_END

template <class Integer>
bool peel_integers(const PeelingPlan& plan, const Integer* sketch, std::size_t lanes, Integer* rows) {
  const RowsOfCells in(plan);
  const Peeler<Integer> peeler{in, sketch, rows, lanes};
  with_longest_vectors(RecoverRow<Integer>{peeler, plan.turns}, [&](const auto& recover) {
    for (std::size_t i = 0; i < plan.turns.size(); ++i) recover(i);
  });
  std::vector<bool> is_used_up(plan.cells());  // by the turn that it gave its row
  for (const PeelingPlan::Turn& turn : plan.turns) is_used_up[turn.cell] = true;
  return with_longest_vectors(IsAccountedFor<Integer>{peeler}, [&](const auto& is_accounted_for) {
    bool all = true;
    for (std::size_t cell = 0; cell < plan.cells(); ++cell) all &= is_used_up[cell] || is_accounted_for(cell);
    return all;
  });
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
