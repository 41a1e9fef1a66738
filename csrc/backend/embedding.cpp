// Lookups in tables whose columns are split over the ranks: the room `embedding`, from and to tensors.

#include <ATen/ops/empty.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>

#include "backend/backend.h"
#include "backend/torch_errors.h"
#include "embedding/gradient.h"
#include "embedding/lookup_acts.h"
#include "sparse/sum_rows.h"
#include "transport/engine.h"

namespace merak {
namespace {

void check_dtype(const TensorChecks& check, const at::Tensor& tensor) {
  const at::ScalarType dtype = tensor.scalar_type();
  check.require(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
                "tables of float32, float64, float16 and bfloat16 can be split; this one has another dtype.");
  check.require(tensor.device().is_cpu(), "a tensor on CPU is needed here.");
  check.require(tensor.layout() == at::kStrided, "a dense tensor is needed here.");
}

// Owns what the acts of a lookup work on.
struct LookupOwner {
  std::unique_ptr<LookupActs> acts;
  at::Tensor ids, shard, output;
};

struct GradientOwner {
  std::shared_ptr<const Batch> batch;
  at::Tensor gradient, rows;
};

at::Tensor as_tensor(const std::vector<std::uint32_t>& ids) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(ids.size())}, at::kLong);
  auto* to = tensor.mutable_data_ptr<std::int64_t>();
  for (std::uint32_t id : ids) *to++ = id;
  return tensor;
}

}  // namespace

Backend::Lookup Backend::embedding_lookup(const at::Tensor& shard, const at::Tensor& ids, std::int64_t columns,
                                          int priority, std::chrono::milliseconds timeout) {
  Call call = this->call("embedding_lookup", OperationKind::kEmbeddingLookup, c10d::OpType::ALLTOALL, timeout);
  check_dtype(call.check, shard);
  const Columns cut{static_cast<std::size_t>(std::max<std::int64_t>(columns, 0)), getSize()};
  const std::int64_t width = static_cast<std::int64_t>(cut.count(getRank()));
  call.check.require(shard.dim() == 2 && shard.size(1) == width && shard.is_contiguous(),
                     "this rank's part of a table with " + std::to_string(columns) +
                         " columns has to be contiguous, with " + std::to_string(width) + " of them.");
  call.check.require(shard.size(0) <= RowSums::kMostRows, "the table has too many rows; split it.");
  call.check.require(ids.scalar_type() == at::kLong || ids.scalar_type() == at::kInt,
                     "ids have to be integers of 64 or 32 bits.");
  call.check.require(ids.device().is_cpu() && ids.layout() == at::kStrided, "ids have to be a dense tensor on CPU.");
  auto owner = std::make_shared<LookupOwner>();
  std::vector<std::int64_t> sizes = ids.sizes().vec();
  sizes.push_back(columns);
  owner->ids = ids.to(at::kLong).contiguous(), owner->shard = shard.detach();
  owner->output = at::empty(sizes, shard.options());
  LookupTask task{.table_rows = static_cast<std::size_t>(shard.size(0)),
                  .element_bytes = static_cast<std::size_t>(shard.element_size()),
                  .columns = cut,
                  .rank = getRank(),
                  .topology = {},
                  .signature = {},
                  .shard = {},
                  .output = {}};
  const std::span<const std::int64_t> tokens{owner->ids.const_data_ptr<std::int64_t>(),
                                             static_cast<std::size_t>(owner->ids.numel())};
  try {
    task.own = rows_of_tokens(tokens, task.table_rows);
  } catch (const std::out_of_range& error) {
    task.problem = error.what();
    task.own = rows_of_tokens({}, task.table_rows);
  }
  call.request.signature.dtype = dtype_of(shard.scalar_type());
  call.request.priority = priority;
  task.signature = call.request.signature;
  task.shard.append(const_cast<void*>(owner->shard.const_data_ptr()), bytes_of(owner->shard));
  task.output.append(owner->output.mutable_data_ptr(), bytes_of(owner->output));
  return with_torch_errors([&]() -> Lookup {
    const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
    task.topology = plans(call.request.timeout).topology();
    owner->acts = std::make_unique<LookupActs>(std::move(task));
    static_cast<Act&>(call.request) = owner->acts->announce();
    call.request.further_acts = owner->acts->further_acts();
    call.request.next_act = [owner] { return owner->acts->next(); };
    call.request.keep_alive = owner;
    ++sequence_;
    call.inputs = {ids};
    auto work = make_work(call, [owner] { return TensorLists{{owner->output}}; });
    auto batch = [owner] { return owner->acts->batch(); };
    return {remember(std::move(work), Engine::process().start(*group, std::move(call.request))), std::move(batch)};
  });
}

Backend::WorkPtr Backend::embedding_gradient(const std::shared_ptr<const Batch>& batch, const at::Tensor& gradient,
                                             std::int64_t padding, int priority, std::chrono::milliseconds timeout) {
  Call call = this->call("embedding_gradient", OperationKind::kEmbeddingGradient, c10d::OpType::ALLTOALL, timeout);
  check_dtype(call.check, gradient);
  call.check.require(gradient.dim() >= 1 && gradient.size(-1) == static_cast<std::int64_t>(batch->columns.all) &&
                         gradient.element_size() == static_cast<std::int64_t>(batch->element_bytes) &&
                         bytes_of(gradient) == batch->own.input.size() * batch->row_bytes(),
                     "the gradient does not fit the lookup that it is of.");
  auto owner = std::make_shared<GradientOwner>();
  owner->batch =
      padding < 0 ? batch : std::make_shared<Batch>(without_row(*batch, static_cast<std::uint32_t>(padding)));
  owner->gradient = gradient.detach().contiguous();
  owner->rows = at::empty({static_cast<std::int64_t>(owner->batch->rows.rows()),
                           static_cast<std::int64_t>(batch->columns.count(getRank()))},
                          gradient.options());
  call.request.signature.dtype = dtype_of(gradient.scalar_type());
  call.request.signature.reduction = Reduction::kAverage;
  call.request.priority = priority;
  call.request.program = std::make_shared<PreparedProgram>(merak::gradient(*owner->batch));
  call.request.input.append(const_cast<void*>(owner->gradient.const_data_ptr()), bytes_of(owner->gradient));
  call.request.output.append(owner->rows.mutable_data_ptr(), bytes_of(owner->rows));
  call.request.reducer = make_sparse_reducer(call.request.signature.dtype, Reduction::kAverage, getSize());
  return with_torch_errors([&]() -> WorkPtr {
    const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
    call.request.keep_alive = owner;
    ++sequence_;
    call.inputs = {gradient};
    auto work = make_work(call, [owner] { return TensorLists{{as_tensor(owner->batch->rows.ids), owner->rows}}; });
    return remember(std::move(work), Engine::process().start(*group, std::move(call.request)));
  });
}

}  // namespace merak
