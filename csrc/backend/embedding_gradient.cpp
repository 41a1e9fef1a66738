// Gradients of lookups (embedding.cpp), and tables that are changed by them as soon as they are there.

#include <ATen/ops/empty.h>

#include <memory>
#include <utility>

#include "backend/backend.h"
#include "backend/embedding_checks.h"
#include "backend/torch_errors.h"
#include "sparse/sum_rows.h"
#include "transport/engine.h"

namespace merak {
namespace {

at::Tensor as_tensor(const std::vector<std::uint32_t>& ids) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(ids.size())}, at::kLong);
  auto* to = tensor.mutable_data_ptr<std::int64_t>();
  for (std::uint32_t id : ids) *to++ = id;
  return tensor;
}

struct Gradient {
  Backend::BatchPtr batch;
  at::Tensor of_tokens, of_rows;

  at::Tensor ids() const { return as_tensor(batch->trained().held_ids()); }
};

// What an update works on, beside the gradient.
struct Update {
  std::shared_ptr<Gradient> gradient;
  TableUpdate change;
  Backend::BatchPtr next;
  at::Tensor rows;
  Signature signature;

  // What follows the gradient.
  Act act() const {
    change(gradient->ids(), gradient->of_rows);
    Act act = lookup_act(next.get(), signature);
    if (!next) return act;
    act.input.append(change.table.mutable_data_ptr(), bytes_of(change.table));
    act.output.append(rows.mutable_data_ptr(), bytes_of(rows));
    return act;
  }
};

// Checks it, and says in `call` how it travels.
std::shared_ptr<Gradient> travel(Call& call, const Backend::BatchPtr& prepared, const at::Tensor& gradient) {
  const Batch& batch = prepared->trained();
  check_table_tensor(call.check, gradient);
  call.check.require(gradient.dim() >= 1 && gradient.size(-1) == static_cast<std::int64_t>(batch.split.table_columns) &&
                         gradient.element_size() == static_cast<std::int64_t>(batch.element_bytes) &&
                         bytes_of(gradient) == batch.tokens * batch.row_bytes(),
                     "the gradient does not fit the lookup that it is of.");
  const auto rows = static_cast<std::int64_t>(batch.held().count());
  const auto columns = static_cast<std::int64_t>(batch.split.columns(batch.rank).count());
  auto owner = std::make_shared<Gradient>(
      Gradient{prepared, gradient.detach().contiguous(), at::empty({rows, columns}, gradient.options())});
  call.request.signature.dtype = dtype_of(gradient.scalar_type());
  call.request.signature.reduction = Reduction::kAverage;
  call.request.signature.root = batch.split.table;
  call.request.signature.bytes = bytes_read(batch);
  call.request.program = prepared->gradient();
  call.request.input.append(const_cast<void*>(owner->of_tokens.const_data_ptr()), bytes_of(owner->of_tokens));
  call.request.output.append(owner->of_rows.mutable_data_ptr(), bytes_of(owner->of_rows));
  call.request.reducer = make_sparse_reducer(call.request.signature.dtype, Reduction::kAverage, batch.ranks());
  call.inputs = {gradient};
  return owner;
}

}  // namespace

Backend::WorkPtr Backend::embedding_gradient(const BatchPtr& batch, const at::Tensor& gradient, int priority,
                                             std::chrono::milliseconds timeout) {
  Call call = this->call("embedding_gradient", OperationKind::kEmbeddingGradient, c10d::OpType::ALLTOALL, timeout);
  call.request.priority = priority;
  auto owner = travel(call, batch, gradient);
  call.request.keep_alive = owner;
  auto result = [owner] { return TensorLists{{owner->ids(), owner->of_rows}}; };
  return start_request(std::move(call), std::move(result));
}

Backend::WorkPtr Backend::embedding_update(const BatchPtr& batch, const at::Tensor& gradient, const TableUpdate& update,
                                           const BatchPtr& next, const at::Tensor& rows, int priority,
                                           std::chrono::milliseconds timeout) {
  Call call = this->call("embedding_update", OperationKind::kEmbeddingUpdate, c10d::OpType::ALLTOALL, timeout);
  call.request.priority = priority;
  if (next) check_rows(call.check, next->batch(), update.table, rows);
  auto owner = std::make_shared<Update>(Update{travel(call, batch, gradient), update, next, rows.detach(), {}});
  owner->signature = call.request.signature;
  owner->signature.bytes = next ? bytes_read(next->batch()) : 0;
  call.request.further_acts = 1;
  call.request.next_act = [owner] { return owner->act(); };
  call.request.keep_alive = owner;
  return start_request(std::move(call), [] { return TensorLists(); });
}

}  // namespace merak
