#include "sparse/exact_sketch.h"

#include <algorithm>
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
  const std::size_t integer_bytes = static_cast<std::size_t>(bits_) / 8;
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    const std::size_t elements = tables_[i].summed.size() / element_bytes(ways_.dtype);
    auto& integers = integers_.emplace_back(elements * integer_bytes);
    to_fixed_point(ways_.dtype, tables_[i].summed.data(), elements, tables_[i].exponents, bits_, integers.data());
    sketches_.emplace_back(plans_[i].cells() * tables_[i].row_elements * integer_bytes);
  }
}

Act ExactSketch::all_reduce(const Signature& signature) {
  Act act{.signature = signature, .program = {}, .input = {}, .output = {}, .reducer = {}};
  act.reducer = make_sparse_reducer(bits_ == 32 ? DType::kInt32 : DType::kInt64, Reduction::kSum, 1);
  const std::size_t integer_bytes = static_cast<std::size_t>(bits_) / 8;
  Program whole;
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    const Place input = {kInput, act.input.size()}, sketch = {kOutput, act.output.size()};
    const std::size_t row_bytes = tables_[i].row_elements * integer_bytes;
    const std::uint32_t made =
        whole.sum_rows(sketch, input, sketch_sums(plans_[i], own_of_union(tables_[i]), row_bytes), {}, false);
    const CollectiveShape shape{
        .kind = OperationKind::kAllReduce, .bytes = sketches_[i].size(), .element_bytes = integer_bytes};
    if (ways_.topology.size() > 1)
      append_after(whole, choose(shape, ways_.rank, ways_.topology).program, {.output = sketch}, {made});
    act.input.append(integers_[i].data(), integers_[i].size());
    act.output.append(sketches_[i].data(), sketches_[i].size());
  }
  act.program = std::make_shared<PreparedProgram>(std::move(whole));
  return act;
}

bool ExactSketch::peel_table(std::size_t table, std::vector<std::byte>& values) {
  const std::size_t lanes = tables_[table].row_elements, elements = tables_[table].rows.rows() * lanes;
  std::vector<std::byte> sums(elements * static_cast<std::size_t>(bits_) / 8);
  std::byte* sketch = sketches_[table].data();
  const bool whole = bits_ == 32 ? peel(plans_[table], reinterpret_cast<std::uint32_t*>(sketch), lanes,
                                        reinterpret_cast<std::uint32_t*>(sums.data()))
                                 : peel(plans_[table], reinterpret_cast<std::uint64_t*>(sketch), lanes,
                                        reinterpret_cast<std::uint64_t*>(sums.data()));
  if (!whole) return false;
  values.resize(elements * element_bytes(ways_.dtype));
  from_fixed_point(ways_.dtype, sums.data(), elements, tables_[table].exponents, bits_, ways_.divisor, values.data());
  return true;
}

}  // namespace merak
