// Lookups in tables that are split over the ranks: the room `embedding`, from and to tensors. Their gradients are in
// embedding_gradient.cpp.

#include <ATen/ops/empty.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "backend/backend.h"
#include "backend/embedding_checks.h"
#include "backend/torch_errors.h"
#include "transport/engine.h"

namespace merak {
namespace {

// Owns what the acts of a lookup work on.
struct LookupOwner {
  std::unique_ptr<LookupActs> acts;
  at::Tensor ids, shard, output;
};

// What these ids read; if they cannot be read, nothing, and why not, for all ranks to know.
void read_tokens(LookupTask& task, const at::Tensor& ids) {
  const std::span<const std::int64_t> tokens{ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel())};
  try {
    task.own = rows_of_tokens(tokens, task.split.table_rows);
  } catch (const std::out_of_range& error) {
    task.problem = error.what();
    task.own = rows_of_tokens({}, task.split.table_rows);
  }
}

std::optional<std::uint32_t> row_or_none(std::int64_t padding) {
  return padding < 0 ? std::nullopt : std::optional(static_cast<std::uint32_t>(padding));
}

}  // namespace

Backend::Lookup Backend::embedding_lookup(const at::Tensor& shard, const at::Tensor& ids, const Split& split,
                                          std::int64_t padding, bool prepare_gradient, int priority,
                                          std::chrono::milliseconds timeout) {
  Call call = this->call("embedding_lookup", OperationKind::kEmbeddingLookup, c10d::OpType::ALLTOALL, timeout);
  call.request.priority = priority;
  return start_lookup(std::move(call), shard, ids,
                      {.split = split, .untrained = row_or_none(padding), .prepare_gradient = prepare_gradient});
}

Backend::Lookup Backend::embedding_announce(const at::Tensor& shard, const at::Tensor& ids, const Split& split,
                                            std::int64_t padding, int priority, std::chrono::milliseconds timeout) {
  Call call = this->call("embedding_announce", OperationKind::kEmbeddingAnnounce, c10d::OpType::ALLGATHER, timeout);
  call.request.priority = priority;
  return start_lookup(std::move(call), shard, ids,
                      {.split = split, .only_announce = true, .untrained = row_or_none(padding)});
}

Backend::Lookup Backend::start_lookup(Call call, const at::Tensor& shard, const at::Tensor& ids, LookupTask task) {
  const Split& split = task.split;
  call.check.require(split.ranks == getSize(), "the table is split over another number of ranks.");
  check_shard(call.check, shard, split, getRank());
  call.check.require(split.table_rows <= RowSums::kMostRows, "the table has too many rows; split it.");
  call.check.require(ids.scalar_type() == at::kLong || ids.scalar_type() == at::kInt,
                     "ids have to be integers of 64 or 32 bits.");
  call.check.require(ids.device().is_cpu() && ids.layout() == at::kStrided, "ids have to be a dense tensor on CPU.");
  auto owner = std::make_shared<LookupOwner>();
  owner->ids = ids.to(at::kLong).contiguous();
  call.request.signature.dtype = dtype_of(shard.scalar_type());
  call.request.signature.root = split.table;
  task.element_bytes = static_cast<std::size_t>(shard.element_size());
  task.rank = getRank();
  task.signature = call.request.signature;
  read_tokens(task, owner->ids);
  if (!task.only_announce) {
    std::vector<std::int64_t> sizes = ids.sizes().vec();
    sizes.push_back(static_cast<std::int64_t>(split.table_columns));
    owner->shard = shard.detach(), owner->output = at::empty(sizes, shard.options());
    task.shard.append(const_cast<void*>(owner->shard.const_data_ptr()), bytes_of(owner->shard));
    task.output.append(owner->output.mutable_data_ptr(), bytes_of(owner->output));
  }
  return with_torch_errors([&]() -> Lookup {
    task.topology = plans(call.request.timeout).topology();
    owner->acts = std::make_unique<LookupActs>(std::move(task));
    static_cast<Act&>(call.request) = owner->acts->announce();
    call.request.further_acts = owner->acts->further_acts();
    call.request.next_act = [owner] { return owner->acts->next(); };
    call.request.keep_alive = owner;
    call.inputs = {ids};
    auto result = [owner] { return owner->output.defined() ? TensorLists{{owner->output}} : TensorLists{}; };
    auto batch = [owner] { return owner->acts->batch(); };
    return {start_request(std::move(call), std::move(result)), std::move(batch)};
  });
}

Backend::WorkPtr Backend::embedding_rows(const BatchPtr& batch, const at::Tensor& shard, const at::Tensor& rows,
                                         int priority, std::chrono::milliseconds timeout) {
  Call call = this->call("embedding_rows", OperationKind::kEmbeddingRows, c10d::OpType::ALLTOALL, timeout);
  check_rows(call.check, batch->batch(), shard, rows);
  call.request.signature.dtype = dtype_of(shard.scalar_type());
  call.request.signature.root = batch->batch().split.table;
  call.request.signature.bytes = bytes_read(batch->batch());
  call.request.priority = priority;
  static_cast<Act&>(call.request) = lookup_act(batch.get(), call.request.signature);
  call.read(shard.detach());
  call.write(rows);
  call.request.keep_alive = std::make_shared<std::vector<c10::Storage>>(std::move(call.memory));
  call.inputs = {shard};
  // Not `rows`, which may have a gradient function later that has this work: nobody would see through such a circle.
  return start_request(std::move(call), [rows = rows.detach()] { return TensorLists{{rows}}; });
}

void Backend::refuse_embedding(const std::string& reason) const {
  call("embedding_lookup", OperationKind::kEmbeddingLookup, c10d::OpType::ALLTOALL, kNoTimeout)
      .check.require(false, reason);
}

}  // namespace merak
