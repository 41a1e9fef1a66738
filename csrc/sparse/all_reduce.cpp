#include "sparse/all_reduce.h"

#include <utility>

#include "collectives/choose.h"
#include "sparse/compose.h"
#include "sparse/statistics.h"

namespace merak {
namespace {

std::uint64_t bytes_sent(const Program& program) {
  std::uint64_t bytes = 0;
  for (const Step& step : program.steps) bytes += step.kind == StepKind::kSend ? step.bytes : 0;
  return bytes;
}

}  // namespace

SparseAllReduce::SparseAllReduce(SparseTask task) : task_(std::move(task)) {
  own_.problem = task_.problem, own_.method = task_.method, own_.from_zeros = task_.from_zeros;
  for (const SparseTable& table : task_.tables) {
    own_.tables.push_back(table.shape);
    own_.present.push_back(table.own.present);
  }
}

Act SparseAllReduce::announce() {
  const std::size_t bytes = announcement_bytes(own_.tables);
  announced_.resize(bytes);
  all_announced_.resize(bytes * task_.topology.host_of.size());
  write(own_, announced_.data());
  Act act{.signature = task_.signature, .program = {}, .input = {}, .output = {}, .reducer = {}};
  act.signature.bytes = bytes;
  const CollectiveShape shape{.kind = OperationKind::kAllGather, .bytes = bytes};
  Program program = choose(shape, task_.rank, task_.topology, task_.costs).program;
  count_announcement(bytes_sent(program));
  act.program = std::make_shared<PreparedProgram>(std::move(program));
  act.input.append(announced_.data(), announced_.size());
  act.output.append(all_announced_.data(), all_announced_.size());
  return act;
}

// The union of each table, once all ranks' announcements are here.
std::vector<UnionRows> SparseAllReduce::unite_tables() {
  std::vector<std::vector<Bitmap>> present(task_.tables.size());  // by table, by rank
  bool from_zeros = false;
  for (int rank = 0; rank < task_.topology.size(); ++rank) {
    Announcement theirs = parse_announcement(all_announced_.data() + static_cast<std::size_t>(rank) * announced_.size(),
                                             own_, rank, task_.rank);
    from_zeros |= theirs.from_zeros;
    for (std::size_t i = 0; i < present.size(); ++i) present[i].push_back(std::move(theirs.present[i]));
  }
  task_.from_zeros = from_zeros;
  std::vector<UnionRows> tables;
  for (const auto& of_ranks : present) tables.push_back(unite(of_ranks));
  return tables;
}

Act SparseAllReduce::reduce() {
  Act act{.signature = task_.signature, .program = {}, .input = {}, .output = {}, .reducer = task_.reducer};
  Program whole;
  const std::vector<UnionRows> united = unite_tables();
  for (std::size_t i = 0; i < united.size(); ++i) {
    const SparseTable& table = task_.tables[i];
    plans_.push_back(plan_table(united[i], table.shape, task_.method, task_.topology, task_.costs));
    if (task_.only_plans) continue;
    const Contributions mine{united[i],        table.own,       task_.rank, table.shape.row_bytes,
                             task_.from_zeros, table.into_table};
    const Program part = program_of(plans_.back(), mine, table.shape, task_.topology, task_.costs);
    count_table(plans_.back(), table.shape, task_.rank, bytes_sent(part));
    append(whole, part, {.input = {kInput, act.input.size()}, .output = {kOutput, act.output.size()}});
    act.input.append(table.values);
    const std::size_t rows = table.into_table ? table.shape.table_rows : united[i].rows();
    act.output.append(task_.allocate(i, united[i].ids), rows * table.shape.row_bytes);
  }
  act.program = std::make_shared<PreparedProgram>(std::move(whole));
  return act;
}

}  // namespace merak
