// all_reduce of sparse COO tensors on CPU, the plain way: every rank gathers the rows of all, and adds them up in the
// order of ranks, so that all get the same bits.
//
// Three gathers: how many rows each rank has; their indices; their values (the last two padded to the longest). They
// are waited for here, since the size of each follows from the one before: with async_op=True the call blocks, and
// what it returns is complete. Bytes received by a rank: (n - 1) * (most rows) * (bytes of a row and its indices).

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sparse_coo_tensor.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "backend/backend.h"

namespace merak {
namespace {

// `rows` along dimension 0, filled up with zeros.
at::Tensor padded(const at::Tensor& tensor, std::int64_t rows) {
  auto sizes = tensor.sizes().vec();
  sizes[0] = rows;
  at::Tensor result = at::zeros(sizes, tensor.options());
  result.narrow(0, 0, tensor.size(0)).copy_(tensor);
  return result;
}

}  // namespace

// The tensors of all ranks, one after the other along a new dimension 0.
at::Tensor Backend::gathered(const at::Tensor& tensor, const c10d::AllreduceOptions& options) {
  auto sizes = tensor.sizes().vec();
  sizes.insert(sizes.begin(), getSize());
  at::Tensor output = at::empty(sizes, tensor.options()), input = tensor;
  c10d::AllgatherOptions gather_options;
  gather_options.timeout = options.timeout;
  _allgather_base(output, input, gather_options)->wait(kNoTimeout);
  return output;
}

Backend::WorkPtr Backend::all_reduce_sparse_tensors(Tensors& tensors, const c10d::AllreduceOptions& options) {
  const TensorChecks check("all_reduce", getSize());
  at::Tensor& tensor = tensors[0];
  check.require(tensor.device().is_cpu() && tensor.layout() == at::kSparse,
                "a sparse COO tensor on CPU is needed here.");
  check.require(options.reduceOp.op_ == c10d::ReduceOp::SUM,
                "of sparse tensors only the sum can be had. Call .to_dense() first.");
  {
    std::lock_guard lock(coalescing_mutex_);
    check.require(!coalescing_, "sparse tensors cannot be coalesced.");
  }
  const at::Tensor own = tensor.detach().coalesce();
  const at::Tensor rows = gathered(at::empty({1}, at::kLong).fill_(own._nnz()), options);
  const std::int64_t most = rows.max().item<std::int64_t>();
  const at::Tensor indices = gathered(padded(own.indices().t().contiguous(), most), options);
  const at::Tensor values = gathered(padded(own.values(), most), options);
  at::Tensor sum;
  for (int rank = 0; rank < getSize(); ++rank) {
    const std::int64_t count = rows[rank].item<std::int64_t>();
    const at::Tensor part = at::sparse_coo_tensor(indices[rank].narrow(0, 0, count).t(),
                                                  values[rank].narrow(0, 0, count), own.sizes(), own.options());
    sum = sum.defined() ? (sum + part).coalesce() : part.coalesce();
  }
  // Into the caller's own tensor: a detached one would share its memory, but keep the new number of rows to itself.
  const at::NoGradGuard no_gradient;
  tensor.copy_(sum);
  Call done = call("sparse_all_reduce", OperationKind::kAllReduce, c10d::OpType::ALLREDUCE, options.timeout);
  done.inputs = tensors, done.outputs = {{sum}};
  auto operation = std::make_shared<Operation>(Engine::process().callbacks(), done.request.timeout, nullptr);
  operation->finish(nullptr);
  return remember(make_work(done), std::move(operation));
}

}  // namespace merak
