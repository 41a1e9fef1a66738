#include "sparse/all_reduce.h"

#include <utility>

#include "sparse/compose.h"
#include "sparse/row_energies.h"
#include "sparse/statistics.h"

namespace merak {
namespace {

// This rank's rows, ascending: what each is the sum of, where its input holds it several times.
RowSums sums_of_own(const SparseTable& table, bool from_zeros) {
  RowSums sums(table.shape.row_bytes);
  const std::size_t rows = table.own.first.size() - 1;
  for (std::uint32_t row = 0; row < rows; ++row) {
    if (from_zeros) sums.add(RowSums::kZeros);
    for (std::uint32_t source : table.own.at(row)) sums.add(source);
    sums.end_row(row);
  }
  return sums;
}

std::vector<std::byte> summed_rows(const SparseTable& table, bool from_zeros, const Reducer& reducer) {
  const RowSums sums = sums_of_own(table, from_zeros);
  std::vector<std::byte> summed(sums.bytes());
  const std::byte* input = table.values.one_run(0, sums.from_bytes());
  if (!summed.empty()) reducer.sum_rows(summed.data(), input, sums, 1);
  return summed;
}

}  // namespace

SparseAllReduce::SparseAllReduce(SparseTask task)
    : task_(std::move(task)), announcing_(own_announcement(), task_.rank, task_.topology, task_.signature) {}

Announcement SparseAllReduce::own_announcement() {
  Announcement own{.problem = task_.problem,
                   .method = task_.method,
                   .on_device = task_.on_device,
                   .only_plans = task_.only_plans,
                   .from_zeros = task_.from_zeros,
                   .sketch = task_.sketch};
  for (std::size_t i = 0; i < task_.tables.size(); ++i) {
    const SparseTable& table = task_.tables[i];
    own.tables.push_back(table.shape);
    own.present.push_back(table.own.present);
    if (task_.method == Method::kSketch) own.norms.push_back(norms_of(energies_of(i)));
    if (task_.method != Method::kSketchExact) continue;
    summed_.push_back(summed_rows(table, task_.from_zeros, task_.reducer));
    const std::size_t elements = summed_.back().size() / table.shape.element_bytes;
    own.exponents.push_back(exponents_of(task_.signature.dtype, summed_.back().data(), elements));
  }
  if (task_.method == Method::kSketch && task_.sketch.feedback)
    keep_heaviest(own.present.front(), own.norms.front(), kAnnouncedRowsACell * sketch_cells());
  return own;
}

std::vector<double> SparseAllReduce::energies_of(std::size_t table) const {
  const RowSums rows = sums_of_own(task_.tables[table], task_.from_zeros);
  if (task_.on_device) return task_.energies_on_device(table, rows);
  return energies_of_rows(task_.signature.dtype, task_.tables[table].values.one_run(0, rows.from_bytes()), rows);
}

Act SparseAllReduce::announce() { return announcing_.first(); }

int SparseAllReduce::further_acts() const {
  return announcing_.acts() + (task_.method == Method::kSketchExact ? 1 : 0);
}

Act SparseAllReduce::next() {
  if (!united_.empty()) return recover();
  if (++begun_ < announcing_.acts()) return announcing_.second();
  unite_tables();
  return reduce();
}

// The union of each table, once it is known who has what.
void SparseAllReduce::unite_tables() {
  std::vector<Announcement> all = announcing_.heard();
  exponents_ = announcing_.own().exponents;
  for (Announcement& one : all) {
    task_.from_zeros |= one.from_zeros;
    for (std::size_t i = 0; i < exponents_.size(); ++i) exponents_[i].include(one.exponents[i]);
    if (task_.method == Method::kSketch) norms_.push_back(std::move(one.norms.front()));
  }
  for (std::size_t i = 0; i < task_.tables.size(); ++i) {
    std::vector<Bitmap> present;
    for (Announcement& one : all) present.push_back(std::move(one.present[i]));
    united_.push_back(unite(present));
    plans_.push_back(plan_table(united_[i], task_.tables[i].shape, task_.method, task_.topology, task_.costs));
  }
}

Act SparseAllReduce::reduce() {
  if (task_.method == Method::kSketch) lay_out_cells();
  if (task_.on_device || task_.only_plans) return nothing();
  return task_.method == Method::kSketchExact ? add_sketches() : last_act();
}

// Of kSketch.
std::size_t SparseAllReduce::sketch_cells() const { return task_.sketch.bytes / task_.tables.front().shape.row_bytes; }

void SparseAllReduce::lay_out_cells() {
  const UnionRows& united = united_.front();
  layout_ = lay_out_sketch(united, energies_of_union(united, norms_), sketch_cells(), task_.sketch);
  sketched_ = sketch_result(united, task_.tables.front().own.present, layout_);
}

// Of kSketchExact.
Act SparseAllReduce::add_sketches() {
  std::vector<ExactSketch::Table> tables;
  for (std::size_t i = 0; i < task_.tables.size(); ++i) {
    const SparseTable& table = task_.tables[i];
    tables.push_back({table.own, united_[i], std::move(summed_[i]), table.shape.row_bytes / table.shape.element_bytes,
                      exponents_[i]});
  }
  sketch_ =
      ExactSketch::make(std::move(tables), {task_.signature.dtype, task_.rank, task_.topology, task_.reducer.divisor});
  if (!sketch_) return last_act();
  Act act = sketch_->all_reduce(task_.signature);
  for (std::size_t i = 0; i < plans_.size(); ++i)
    count_table(plans_[i], task_.tables[i].shape, task_.rank,
                i == 0 ? act.program->program().bytes_of(StepKind::kSend) : 0);
  return act;
}

// After the sketches were added up; or after an act that did without, when nothing is left to do.
Act SparseAllReduce::recover() {
  if (!sketch_) return nothing();
  if (task_.spoil_sketch) sketch_->spoil();
  if (!sketch_->certificate()) return last_act();
  for (std::size_t i = 0; i < task_.tables.size(); ++i) {
    const SparseTable& table = task_.tables[i];
    auto* to = static_cast<std::byte*>(task_.allocate(i, united_[i].ids));
    for (std::uint32_t u = 0; u < united_[i].rows(); ++u)
      sketch_->recover(i, u, to + (table.into_table ? united_[i].ids[u] : u) * table.shape.row_bytes);
  }
  return nothing();
}

Act SparseAllReduce::nothing() const {
  return {.signature = task_.signature,
          .program = std::make_shared<PreparedProgram>(Program{}),
          .input = {},
          .output = {},
          .reducer = {}};
}

// A method that is one program for each table; kBalanced for kSketchExact where there is no sketch.
Act SparseAllReduce::last_act() {
  Act act{.signature = task_.signature, .program = {}, .input = {}, .output = {}, .reducer = task_.reducer};
  for (TablePlan& plan : plans_)
    if (plan.method == Method::kSketchExact) plan.method = Method::kBalanced;
  make_room(act);
  const std::vector<Program> parts = programs_of(task_.rank);
  for (std::size_t i = 0; i < parts.size(); ++i)
    count_table(plans_[i], task_.tables[i].shape, task_.rank, parts[i].bytes_of(StepKind::kSend));
  act.program = std::make_shared<PreparedProgram>(as_one(parts));
  return act;
}

// For the results, in the order in which programs have them.
void SparseAllReduce::make_room(Act& act) {
  for (std::size_t i = 0; i < united_.size(); ++i) {
    const std::vector<std::uint32_t>& ids = task_.method == Method::kSketch ? sketched_.estimated : united_[i].ids;
    act.input.append(task_.tables[i].values);
    act.output.append(task_.allocate(i, ids), result_bytes(i, ids));
  }
  if (task_.method == Method::kSketch && task_.sketch.feedback)
    act.output.append(task_.allocate_kept(0, sketched_.kept), result_bytes(0, sketched_.kept));
}

// By table; of another rank, its messages alone.
std::vector<Program> SparseAllReduce::programs_of(int rank) const {
  std::vector<Program> programs;
  for (std::size_t i = 0; i < united_.size(); ++i) {
    const SparseTable& table = task_.tables[i];
    const Contributions contributions{
        united_[i], table.own, rank, table.shape.row_bytes, task_.from_zeros, table.into_table, rank != task_.rank};
    if (task_.method == Method::kSketch)
      programs.push_back(lossy_all_reduce(contributions, layout_, sketched_,
                                          {task_.topology, table.shape.element_bytes}, task_.sketch.feedback));
    else
      programs.push_back(
          program_of(plans_[i], contributions, table.shape, task_.topology, task_.on_device ? kDeviceGrain : Grain()));
  }
  return programs;
}

// The programs of all tables at once, whose memory lies one behind the other.
Program SparseAllReduce::as_one(const std::vector<Program>& parts) const {
  Program whole;
  Mapping mapping;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    append(whole, parts[i], mapping);
    mapping.input.offset += task_.tables[i].values.size();
    mapping.output.offset += result_bytes(i, united_[i].ids);
  }
  return whole;
}

std::size_t SparseAllReduce::result_bytes(std::size_t table, const std::vector<std::uint32_t>& ids) const {
  const SparseTable& one = task_.tables[table];
  return (one.into_table ? one.shape.table_rows : ids.size()) * one.shape.row_bytes;
}

// Rounds follow from the messages of all ranks, and those from what was announced: how often a rank holds a row, and
// whether it makes a whole table, changes neither its messages nor what they come after.
DeviceShare SparseAllReduce::device_share() {
  DeviceShare share{last_act(), {}};
  std::vector<Program> programs;
  for (int rank = 0; rank < task_.topology.size(); ++rank)
    programs.push_back(rank == task_.rank ? share.act.program->program() : as_one(programs_of(rank)));
  share.rounds = std::move(nccl_rounds(programs)[static_cast<std::size_t>(task_.rank)]);
  return share;
}

}  // namespace merak
