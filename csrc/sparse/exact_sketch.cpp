#include "sparse/exact_sketch.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>

#include "sparse/compose.h"
#include "sparse/plan.h"
#include "sparse/sum_rows.h"

namespace merak {
namespace {

// Which rows of the union this rank contributes.
std::vector<std::uint32_t> own_of_union(const ExactSketch::Table& table) {
  std::vector<std::uint32_t> own;
  for (std::uint32_t u = 0; u < table.rows.rows(); ++u)
    if (table.own.present.test(table.rows.ids[u])) own.push_back(u);
  return own;
}

}  // namespace

std::unique_ptr<ExactSketch> ExactSketch::make(std::vector<Table> tables, const Ways& ways) {
  int bits = 32;
  std::vector<PeelingPlan> plans;
  for (const Table& table : tables) {
    const int needed = bits_for(ways.dtype, table.exponents, ways.topology.size());
    std::optional<PeelingPlan> plan = plan_peeling(table.rows.ids, kCellsARow);
    if (needed == 0 || !plan) return nullptr;
    bits = std::max(bits, needed);
    plans.push_back(std::move(*plan));
  }
  return std::unique_ptr<ExactSketch>(new ExactSketch(std::move(tables), ways, bits, std::move(plans)));
}

ExactSketch::ExactSketch(std::vector<Table> tables, const Ways& ways, int bits, std::vector<PeelingPlan> plans)
    : tables_(std::move(tables)), ways_(ways), bits_(bits), plans_(std::move(plans)) {
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    const std::size_t elements = tables_[i].summed.size() / element_bytes(ways_.dtype);
    auto& integers = integers_.emplace_back(elements * integer_bytes());
    to_fixed_point(ways_.dtype, tables_[i].summed.data(), elements, tables_[i].exponents, bits_, integers.data());
    sketches_.emplace_back(plans_[i].cells() * row_bytes(i));
  }
}

Act ExactSketch::all_reduce(const Signature& signature) {
  Act act{.signature = signature, .program = {}, .input = {}, .output = {}, .reducer = {}};
  act.reducer = make_sparse_reducer(bits_ == 32 ? DType::kInt32 : DType::kInt64, Reduction::kSum, 1);
  Program whole;
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    append_table(whole, i, {kInput, act.input.size()}, {kOutput, act.output.size()});
    act.input.append(integers_[i].data(), integers_[i].size());
    act.output.append(sketches_[i].data(), sketches_[i].size());
  }
  act.program = std::make_shared<PreparedProgram>(std::move(whole));
  return act;
}

void ExactSketch::append_table(Program& whole, std::size_t table, Place input, Place output) const {
  RowSums own = sketch_sums(plans_[table], own_of_union(tables_[table]), row_bytes(table));
  std::vector<std::uint32_t> before = {whole.sum_rows(output, input, std::move(own), {}, false)};
  const CollectiveShape shape{
      .kind = OperationKind::kAllReduce, .bytes = sketches_[table].size(), .element_bytes = integer_bytes()};
  if (ways_.topology.size() > 1) {
    append_after(whole, choose(shape, ways_.rank, ways_.topology).program, {.output = output}, before);
    while (before.back() + 1 < whole.steps.size()) before.push_back(before.back() + 1);
  }
  for (RowSums& round : peeling_sums(plans_[table], row_bytes(table)))
    before = {whole.sum_rows(output, output, std::move(round), before, false)};
}

bool ExactSketch::certificate() const {
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    const Bitmap present = present_rows(sketches_[i].data(), plans_[i].cells(), row_bytes(i), integer_bytes());
    const std::vector<std::uint32_t> others = plans_[i].other_cells();
    if (std::any_of(others.begin(), others.end(), [&](std::uint32_t cell) { return present.test(cell); })) return false;
  }
  return true;
}

void ExactSketch::recover(std::size_t table, std::uint32_t u, void* to) const {
  from_fixed_point(ways_.dtype, sketches_[table].data() + plans_[table].cell_of[u] * row_bytes(table),
                   tables_[table].row_elements, tables_[table].exponents, bits_, ways_.divisor, to);
}

}  // namespace merak
