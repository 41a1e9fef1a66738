#include "sparse/lossy_sketch.h"

#include <utility>

#include "sparse/rows_of_cells.h"

namespace merak {
namespace {

void make_cells(Program& program, const Contributions& mine, const SketchLayout& layout, Strips& cells) {
  const RowsOfCells in(layout.cells, [&](auto visit) {
    for (std::uint32_t u : layout.placed()) visit(layout.cell_of[u], u);
  });
  const Positions position(mine.own.present);
  cells.make(program, mine.rank, mine.rows.size, [&](RowSums& sums, std::size_t cell) {
    if (mine.only_messages) return;
    sums.add(RowSums::kZeros);
    for (std::uint32_t u : in[cell]) {
      const std::uint32_t id = mine.rows.ids[u];
      if (!mine.own.present.test(id)) continue;
      for (std::uint32_t row : mine.own.at(position(id))) layout.sign_of[u] > 0 ? sums.add(row) : sums.subtract(row);
    }
    sums.end_row(static_cast<std::uint32_t>(cell));
  });
}

RowSums estimates(const Contributions& mine, const SketchLayout& layout) {
  RowSums sums(mine.row_bytes);
  for (std::uint32_t i = 0; std::uint32_t u : layout.placed()) {
    if (layout.sign_of[u] < 0) {
      sums.add(RowSums::kZeros);  // less a zero: a positive zero
      sums.subtract(layout.cell_of[u]);
    } else {
      sums.add(layout.cell_of[u]);
    }
    sums.end_row(mine.into_table ? mine.rows.ids[u] : i);
    ++i;
  }
  return sums;
}

RowSums what_is_kept(const Contributions& mine, const std::vector<std::uint32_t>& kept) {
  RowSums sums(mine.row_bytes);
  const Positions position(mine.own.present);
  for (std::uint32_t i = 0; std::uint32_t id : kept) {
    if (mine.from_zeros) sums.add(RowSums::kZeros);
    for (std::uint32_t row : mine.own.at(position(id))) sums.add(row);
    sums.end_row(mine.into_table ? id : i);
    ++i;
  }
  return sums;
}

}  // namespace

SketchResult sketch_result(const UnionRows& rows, const Bitmap& own, const SketchLayout& layout) {
  SketchResult result;
  Bitmap kept = own;
  for (std::uint32_t u : layout.placed()) result.estimated.push_back(rows.ids[u]), kept.reset(rows.ids[u]);
  result.kept = kept.members();
  return result;
}

Program lossy_all_reduce(const Contributions& mine, const SketchLayout& layout, const SketchResult& result,
                         const DenseWays& ways, bool keep) {
  Program program;
  Strips cells({program.add_scratch(layout.cells * mine.row_bytes), 0}, layout.cells, mine.row_bytes);
  make_cells(program, mine, layout, cells);
  cells.all_reduce(program, mine.rank, ways);
  if (mine.only_messages) return program;
  Strips::Steps all = layout.cells == 0 ? Strips::Steps{} : cells.steps(0, layout.cells);
  program.sum_rows({kOutput, 0}, cells.place, estimates(mine, layout), std::move(all), false);
  if (!keep) return program;
  const std::size_t rows = mine.into_table ? mine.own.present.bits() : result.estimated.size();
  program.sum_rows({kOutput, rows * mine.row_bytes}, {kInput, 0}, what_is_kept(mine, result.kept), {}, false);
  return program;
}

}  // namespace merak
