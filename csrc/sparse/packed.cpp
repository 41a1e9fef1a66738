#include "sparse/packed.h"

#include <algorithm>
#include <utility>

namespace merak {
namespace {

// Row i is row u = union_of(i) of the union, or of zeros where that is -1 or another rank's.
template <class UnionOf>
void make_rows(Program& program, const Contributions& mine, Strips& strips, UnionOf union_of) {
  const std::vector<std::uint32_t> position = mine.positions();
  strips.make(program, mine.rank, mine.rows.size, [&](RowSums& sums, std::size_t i) {
    if (mine.only_messages) return;
    const std::int64_t u = union_of(i);
    if (u >= 0 && mine.contributes(mine.self(), static_cast<std::uint32_t>(u))) {
      mine.begin_sum(sums, static_cast<std::uint32_t>(u));
      for (std::uint32_t row : mine.own.at(position[static_cast<std::size_t>(u)])) sums.add(row);
    }
    sums.end_row(static_cast<std::uint32_t>(i));
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
    Strips::Steps after = strips.steps(from_row(static_cast<std::uint32_t>(begin)),
                                       std::size_t{from_row(static_cast<std::uint32_t>(end - 1))} + 1);
    program.sum_rows({kOutput, 0}, strips.place, std::move(sums), std::move(after), false);
  }
}

}  // namespace

Program packed_all_reduce(const Contributions& mine, const DenseWays& ways) {
  Program program;
  const std::size_t rows = mine.rows.rows();
  Strips strips(mine.into_table ? Place{program.add_scratch(rows * mine.row_bytes), 0} : Place{kOutput, 0}, rows,
                mine.row_bytes);
  make_rows(program, mine, strips, [](std::size_t i) { return static_cast<std::int64_t>(i); });
  strips.all_reduce(program, mine.rank, ways);
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
  make_rows(program, mine, strips, [&](std::size_t i) { return union_of[i]; });
  strips.all_reduce(program, mine.rank, ways);
  if (!mine.into_table) copy_rows(program, mine, strips, [&](std::uint32_t u) { return mine.rows.ids[u]; });
  return program;
}

}  // namespace merak
