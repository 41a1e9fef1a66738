#include "embedding/lookup_acts.h"

#include <stdexcept>
#include <utility>
#include <vector>

#include "embedding/lookup.h"
#include "sparse/sum_rows.h"

namespace merak {
namespace {

Announcement announcement_of(const LookupTask& task) {
  Announcement own{.call = "embedding_lookup", .problem = task.problem};
  const auto by = static_cast<std::uint64_t>(task.split.by);
  own.tables = {{task.split.table_rows, task.split.table_columns * task.element_bytes, task.element_bytes, by}};
  own.present = {task.own.present};
  return own;
}

}  // namespace

OwnRows rows_of_tokens(std::span<const std::int64_t> ids, std::size_t table_rows) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || static_cast<std::uint64_t>(ids[i]) >= table_rows)
      throw std::out_of_range("id " + std::to_string(ids[i]) + ", at position " + std::to_string(i) +
                              ", is outside an embedding of " + std::to_string(table_rows) + " rows");
  return own_rows(ids, table_rows);
}

Act lookup_act(const Batch* batch, const Signature& signature) {
  return {.signature = signature,
          .program = std::make_shared<PreparedProgram>(batch ? lookup(*batch) : Program()),
          .input = {},
          .output = {},
          .reducer = make_sparse_reducer(signature.dtype, Reduction::kSum, 1)};
}

LookupActs::LookupActs(LookupTask task)
    : task_(std::move(task)), announcing_(announcement_of(task_), task_.rank, task_.topology, task_.signature) {}

Act LookupActs::next() {
  if (++begun_ < announcing_.acts()) return announcing_.second();
  std::vector<Bitmap> present;
  for (Announcement& one : announcing_.heard()) present.push_back(std::move(one.present.front()));
  batch_ = std::make_shared<const Batch>(
      make_batch(task_.rank, task_.split, task_.element_bytes, std::move(task_.own), present));
  Act act = lookup_act(task_.only_announce ? nullptr : batch_.get(), task_.signature);
  act.input = task_.shard, act.output = task_.output;
  return act;
}

}  // namespace merak
