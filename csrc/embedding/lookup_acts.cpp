#include "embedding/lookup_acts.h"

#include <stdexcept>
#include <utility>
#include <vector>

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

Act lookup_act(const PreparedBatch* batch, const Signature& signature) {
  return {.signature = signature,
          .program = batch ? batch->lookup() : std::make_shared<const PreparedProgram>(Program()),
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
  batch_ = std::make_shared<const PreparedBatch>(
      make_batch(task_.rank, task_.split, task_.element_bytes, std::move(task_.own), present), task_.untrained);
  Act act = lookup_act(task_.only_announce ? nullptr : batch_.get(), task_.signature);
  act.input = task_.shard, act.output = task_.output;
  if (task_.prepare_gradient) act.beside = [batch = batch_] { batch->gradient(); };
  return act;
}

}  // namespace merak
