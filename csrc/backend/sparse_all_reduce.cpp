// all_reduce of sparse tensors, and of dense ones with zero rows: the room `sparse`, from and to tensors.

#include <memory>
#include <utility>

#include "backend/backend.h"
#include "backend/sparse_argument.h"
#include "backend/torch_errors.h"
#include "sparse/sum_rows.h"
#include "transport/engine.h"

namespace merak {
namespace {

// Everything that one operation works on.
struct State {
  std::vector<SparseArgument> arguments;
  std::optional<SparseAllReduce> reduction;
  Backend::Tensors results;
};

}  // namespace

Backend::WorkPtr Backend::sparse_all_reduce(const Tensors& tensors, const c10d::ReduceOp& op, const std::string& method,
                                            std::chrono::milliseconds timeout) {
  return reduce_sparsely(tensors, op, method, timeout, false);
}

Backend::WorkPtr Backend::reduce_sparsely(const Tensors& tensors, const c10d::ReduceOp& op, const std::string& method,
                                          std::chrono::milliseconds timeout, bool in_place) {
  Call call = this->call("sparse_all_reduce", OperationKind::kSparseAllReduce, c10d::OpType::ALLREDUCE, timeout);
  const TensorChecks& check = call.check;
  check.require(!tensors.empty(), "the list of tensors is empty.");
  check.require(op.op_ == c10d::ReduceOp::SUM || op.op_ == c10d::ReduceOp::AVG,
                "sparse tensors can be reduced with SUM or AVG only. Call .to_dense() first for others.");
  check.one_dtype("the tensors", tensors);
  const at::ScalarType dtype = tensors[0].scalar_type();
  auto state = std::make_shared<State>();
  for (const at::Tensor& tensor : tensors) state->arguments.emplace_back(check, tensor);
  {
    std::lock_guard lock(coalescing_mutex_);
    check.require(!coalescing_, "sparse tensors cannot be coalesced.");
  }
  return with_torch_errors([&]() -> WorkPtr {
    SparseTask task;
    task.method = method_named(method);
    call.request.signature.dtype = dtype_of(dtype), call.request.signature.reduction = check.reduction(op, dtype);
    task.signature = call.request.signature;
    task.reducer = make_sparse_reducer(task.signature.dtype, task.signature.reduction, getSize());
    task.from_zeros = false;
    for (SparseArgument& argument : state->arguments) {
      task.tables.push_back(argument.table());
      task.from_zeros |= !task.tables.back().into_table;
      if (task.problem.empty()) task.problem = argument.problem();
    }
    const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
    task.rank = getRank(), task.topology = plans(call.request.timeout).topology();
    state->results = tensors;
    task.allocate = [state = state.get(), in_place](std::size_t i, const std::vector<std::uint32_t>& ids) {
      if (in_place) return state->arguments[i].put_result(ids, state->results[i]);
      auto [tensor, rows] = state->arguments[i].make_result(ids);
      state->results[i] = std::move(tensor);
      return rows;
    };
    state->reduction.emplace(std::move(task));
    static_cast<Act&>(call.request) = state->reduction->announce();
    call.request.further_acts = 1;
    call.request.next_act = [state] { return state->reduction->reduce(); };
    call.request.keep_alive = state;
    ++sequence_;
    call.inputs = tensors;
    auto work = make_work(call, [state] { return TensorLists{state->results}; });
    return remember(std::move(work), Engine::process().start(*group, std::move(call.request)));
  });
}

Backend::WorkPtr Backend::all_reduce_sparse_tensors(Tensors& tensors, const c10d::AllreduceOptions& options) {
  return reduce_sparsely(tensors, options.reduceOp, "auto", options.timeout, true);
}

}  // namespace merak
