#include "sparse/packed.h"

#include <algorithm>
#include <utility>

#include "collectives/cut.h"
#include "sparse/compose.h"

namespace merak {
namespace {

using Steps = std::vector<std::uint32_t>;

// Rows that lie one behind the other, in *strips* as long as a step may take; and for each strip the steps that have
// worked on it so far, so that one strip is reduced while the next is being laid out.
struct Strips {
  Strips(Place begin, std::size_t rows, std::size_t bytes_of_a_row)
      : place(begin),
        count(rows),
        row_bytes(bytes_of_a_row),
        strip_rows(std::max<std::size_t>(kLargestStep / bytes_of_a_row, 1)),
        worked_on((rows + strip_rows - 1) / strip_rows) {}

  std::size_t bytes() const { return count * row_bytes; }
  std::size_t strip_of_row(std::size_t row) const { return row / strip_rows; }

  // Calls visit(steps) for every strip that the bytes of a step on the output touch.
  template <class Visit>
  void for_each_strip(Place at, std::size_t bytes_there, Visit visit) {
    if (at.buffer != kOutput || bytes_there == 0) return;
    const std::size_t strip_bytes = strip_rows * row_bytes, last = (at.offset + bytes_there - 1) / strip_bytes;
    for (std::size_t strip = at.offset / strip_bytes; strip <= last; ++strip) visit(worked_on[strip]);
  }

  const Place place;
  const std::size_t count, row_bytes, strip_rows;
  std::vector<Steps> worked_on;  // by strip
};

// Row i is row u = union_of(i) of the union, or of zeros where that is -1 or another rank's. Begins with what the ring
// sends first: this rank's share.
template <class UnionOf>
void lay_out(Program& program, const Contributions& mine, Strips& strips, UnionOf union_of) {
  const Steps position = mine.positions();
  const std::size_t first = strips.worked_on.size() * mine.self() / mine.ranks();
  for (std::size_t turn = 0; turn < strips.worked_on.size(); ++turn) {
    const std::size_t strip = (first + turn) % strips.worked_on.size(), begin = strip * strips.strip_rows;
    RowSums sums = mine.sums([&](RowSums& sums) {
      for (std::size_t i = begin; i < std::min(strips.count, begin + strips.strip_rows); ++i) {
        const std::int64_t u = union_of(i);
        if (u >= 0 && mine.contributes(mine.self(), static_cast<std::uint32_t>(u))) {
          mine.begin_sum(sums, static_cast<std::uint32_t>(u));
          for (std::uint32_t row : mine.own.at(position[static_cast<std::size_t>(u)])) sums.add(row);
        }
        sums.end_row(static_cast<std::uint32_t>(i));
      }
    });
    const bool completes = mine.rows.size == 1;
    strips.worked_on[strip] = {program.sum_rows(strips.place, {kInput, 0}, std::move(sums), {}, completes)};
  }
}

void reduce(Program& program, const Contributions& mine, const DenseWays& ways, Strips& strips) {
  if (mine.rows.size == 1) return;
  const CollectiveShape shape{
      .kind = OperationKind::kAllReduce, .bytes = strips.bytes(), .element_bytes = ways.element_bytes};
  const Program dense = choose(shape, mine.rank, ways.topology).program;
  append(program, dense, {.output = strips.place}, [&](const Step& step, std::uint32_t index, Step& moved) {
    const auto comes_after = [&](Steps& worked_on) {
      moved.after.push_back(worked_on.front());
      worked_on.push_back(index);
    };
    strips.for_each_strip(step.at, step.bytes, comes_after);
    if (step.kind == StepKind::kReduce || step.kind == StepKind::kCopy)
      strips.for_each_strip(step.from, step.bytes, comes_after);
  });
}

// Row u of the union, which stands in row from_row(u), to its place in the output.
template <class FromRow>
void copy_rows(Program& program, const Contributions& mine, const Strips& strips, FromRow from_row) {
  for (std::size_t begin = 0; begin < mine.rows.rows(); begin += strips.strip_rows) {
    const std::size_t end = std::min(mine.rows.rows(), begin + strips.strip_rows);
    RowSums sums = mine.sums([&](RowSums& sums) {
      for (auto u = static_cast<std::uint32_t>(begin); u < end; ++u) sums.copy_row(mine.output_row(u), from_row(u));
    });
    Steps after;
    const std::size_t last = strips.strip_of_row(from_row(static_cast<std::uint32_t>(end - 1)));
    for (std::size_t strip = strips.strip_of_row(from_row(static_cast<std::uint32_t>(begin))); strip <= last; ++strip)
      after.insert(after.end(), strips.worked_on[strip].begin(), strips.worked_on[strip].end());
    program.sum_rows({kOutput, 0}, strips.place, std::move(sums), std::move(after), false);
  }
}

}  // namespace

Program packed_all_reduce(const Contributions& mine, const DenseWays& ways) {
  Program program;
  const std::size_t rows = mine.rows.rows();
  Strips strips(mine.into_table ? Place{program.add_scratch(rows * mine.row_bytes), 0} : Place{kOutput, 0}, rows,
                mine.row_bytes);
  lay_out(program, mine, strips, [](std::size_t i) { return static_cast<std::int64_t>(i); });
  reduce(program, mine, ways, strips);
  if (mine.into_table) copy_rows(program, mine, strips, [](std::uint32_t u) { return u; });
  return program;
}

Program dense_all_reduce(const Contributions& mine, const DenseWays& ways) {
  Program program;
  const std::size_t rows = mine.own.present.bits();
  std::vector<std::int64_t> union_of(rows, -1);
  for (std::uint32_t u = 0; u < mine.rows.rows(); ++u) union_of[mine.rows.ids[u]] = u;
  Strips strips(mine.into_table ? Place{kOutput, 0} : Place{program.add_scratch(rows * mine.row_bytes), 0}, rows,
                mine.row_bytes);
  lay_out(program, mine, strips, [&](std::size_t i) { return union_of[i]; });
  reduce(program, mine, ways, strips);
  if (!mine.into_table) copy_rows(program, mine, strips, [&](std::uint32_t u) { return mine.rows.ids[u]; });
  return program;
}

}  // namespace merak
