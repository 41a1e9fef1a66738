#include "sparse/packed.h"

#include <algorithm>
#include <utility>

#include "collectives/cut.h"
#include "sparse/compose.h"

namespace merak {
namespace {

using Steps = std::vector<std::uint32_t>;

std::size_t step_rows(std::size_t row_bytes) { return std::max<std::size_t>(kLargestStep / row_bytes, 1); }

// `count` rows at `at`; row i is row u = union_of(i) of the union, or of zeros where that is -1 or another rank's.
template <class UnionOf>
Steps lay_out(Program& program, const Contributions& mine, Place at, std::size_t count, UnionOf union_of) {
  const Steps position = mine.positions();
  Steps done;
  for (std::size_t begin = 0; begin < count; begin += step_rows(mine.row_bytes)) {
    RowSums sums(mine.row_bytes);
    for (std::size_t i = begin; i < std::min(count, begin + step_rows(mine.row_bytes)); ++i) {
      const std::int64_t u = union_of(i);
      if (u >= 0 && mine.contributes(mine.self(), static_cast<std::uint32_t>(u))) {
        mine.begin_sum(sums, static_cast<std::uint32_t>(u));
        for (std::uint32_t row : mine.own.at(position[static_cast<std::size_t>(u)])) sums.add(row);
      }
      sums.end_row(static_cast<std::uint32_t>(i));
    }
    done.push_back(program.sum_rows(at, {kInput, 0}, std::move(sums), {}, mine.rows.size == 1));
  }
  return done;
}

// Returns the steps after which it holds the result.
Steps reduce(Program& program, const Contributions& mine, const DenseWays& ways, Place at, std::size_t bytes,
             const Steps& after) {
  if (mine.rows.size == 1) return after;
  const CollectiveShape shape{.kind = OperationKind::kAllReduce, .bytes = bytes, .element_bytes = ways.element_bytes};
  return append(program, choose(shape, mine.rank, ways.topology, ways.costs).program, {.output = at}, after);
}

// Row u of the union, which stands in row from_row(u) of `from`, to its place in the output.
template <class FromRow>
void copy_rows(Program& program, const Contributions& mine, Place from, const Steps& after, FromRow from_row) {
  for (std::size_t begin = 0; begin < mine.rows.rows(); begin += step_rows(mine.row_bytes)) {
    RowSums sums(mine.row_bytes);
    const std::size_t end = std::min(mine.rows.rows(), begin + step_rows(mine.row_bytes));
    for (auto u = static_cast<std::uint32_t>(begin); u < end; ++u) sums.copy_row(mine.output_row(u), from_row(u));
    program.sum_rows({kOutput, 0}, from, std::move(sums), after, false);
  }
}

}  // namespace

Program packed_all_reduce(const Contributions& mine, const DenseWays& ways) {
  Program program;
  const std::size_t rows = mine.rows.rows(), bytes = rows * mine.row_bytes;
  const Place at = mine.into_table ? Place{program.add_scratch(bytes), 0} : Place{kOutput, 0};
  const Steps laid_out = lay_out(program, mine, at, rows, [](std::size_t i) { return static_cast<std::int64_t>(i); });
  const Steps reduced = reduce(program, mine, ways, at, bytes, laid_out);
  if (mine.into_table) copy_rows(program, mine, at, reduced, [](std::uint32_t u) { return u; });
  return program;
}

Program dense_all_reduce(const Contributions& mine, const DenseWays& ways) {
  Program program;
  const std::size_t rows = mine.own.present.bits(), bytes = rows * mine.row_bytes;
  std::vector<std::int64_t> union_of(rows, -1);
  for (std::uint32_t u = 0; u < mine.rows.rows(); ++u) union_of[mine.rows.ids[u]] = u;
  const Place at = mine.into_table ? Place{kOutput, 0} : Place{program.add_scratch(bytes), 0};
  const Steps laid_out = lay_out(program, mine, at, rows, [&](std::size_t i) { return union_of[i]; });
  const Steps reduced = reduce(program, mine, ways, at, bytes, laid_out);
  if (!mine.into_table) copy_rows(program, mine, at, reduced, [&](std::uint32_t u) { return mine.rows.ids[u]; });
  return program;
}

}  // namespace merak
