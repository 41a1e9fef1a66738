// all_reduce of sparse tensors, and of dense ones with zero rows: the room `sparse`, from and to tensors.

#include <memory>
#include <optional>
#include <utility>

#include "backend/backend.h"
#include "backend/sparse_argument.h"
#include "backend/torch_errors.h"
#include "sparse/sum_rows.h"
#include "transport/engine.h"

namespace merak {

// One operation on tensors. `in_place`: the results go into the arguments, which are sparse COO tensors.
class SparseOperation {
 public:
  SparseOperation(const TensorChecks& check, const Backend::Tensors& tensors, bool in_place)
      : in_place_(in_place), results_(tensors) {
    for (const at::Tensor& tensor : tensors) arguments_.emplace_back(check, tensor);
  }

  // What is not said of the arguments has to be in `task`.
  Act start(SparseTask task) {
    task.from_zeros = false;
    for (SparseArgument& argument : arguments_) {
      task.tables.push_back(argument.table());
      task.from_zeros |= !task.tables.back().into_table;
      if (task.problem.empty()) task.problem = argument.problem();
    }
    task.allocate = [this](std::size_t i, const std::vector<std::uint32_t>& ids) { return allocate(i, ids); };
    task.allocate_kept = [this](std::size_t i, const std::vector<std::uint32_t>& ids) {
      auto [tensor, rows] = arguments_[i].make_result(ids);
      results_.push_back(std::move(tensor));
      return rows;
    };
    reduction_.emplace(std::move(task));
    return reduction_->announce();
  }
  int further_acts() const { return reduction_->further_acts(); }
  Act next() { return reduction_->next(); }

  // Once it is done: by argument; then what this rank keeps.
  const Backend::Tensors& results() const { return results_; }
  const std::vector<TablePlan>& plans() const { return reduction_->plans(); }

  std::size_t row_bytes() const { return arguments_.front().row_bytes(); }

 private:
  void* allocate(std::size_t i, const std::vector<std::uint32_t>& ids) {
    if (in_place_) return arguments_[i].put_result(ids, results_[i]);
    auto [tensor, rows] = arguments_[i].make_result(ids);
    results_[i] = std::move(tensor);
    return rows;
  }

  const bool in_place_;
  std::vector<SparseArgument> arguments_;
  std::optional<SparseAllReduce> reduction_;
  Backend::Tensors results_;
};

Backend::WorkPtr Backend::sparse_all_reduce(const Tensors& tensors, const c10d::ReduceOp& op, const std::string& method,
                                            std::chrono::milliseconds timeout) {
  return start_sparse({tensors, op, method, timeout}).first;
}

Backend::WorkPtr Backend::sketch_all_reduce(const at::Tensor& tensor, const c10d::ReduceOp& op,
                                            const SketchBudget& budget, std::chrono::milliseconds timeout) {
  return start_sparse({{tensor}, op, name(Method::kSketch), timeout, false, false, budget}).first;
}

std::vector<TablePlan> Backend::sparse_plans(const Tensors& tensors, const std::string& method,
                                             std::chrono::milliseconds timeout) {
  const auto [work, operation] =
      start_sparse({tensors, c10d::ReduceOp(c10d::ReduceOp::SUM), method, timeout, false, true});
  work->wait(kNoTimeout);
  return operation->plans();
}

Backend::WorkPtr Backend::all_reduce_sparse_tensors(Tensors& tensors, const c10d::AllreduceOptions& options) {
  return start_sparse({tensors, options.reduceOp, "auto", options.timeout, true}).first;
}

namespace {

void check_sketch(const TensorChecks& check, const SketchBudget& sketch, std::size_t row_bytes, at::ScalarType dtype) {
  check.require(sketch.bytes > 0, "method 'sketch' is lossy, and needs a codec=merak.sparse.SketchCodec(...).");
  check.require(dtype == at::kFloat || dtype == at::kDouble,
                "a lossy sketch takes tensors of float32 or float64. Convert others, or choose another method.");
  check.require(sketch.bytes >= row_bytes, "a sketch of " + std::to_string(sketch.bytes) +
                                               " bytes does not hold one row, which takes " +
                                               std::to_string(row_bytes) + ". Give the codec a larger budget_bytes.");
}

}  // namespace

std::pair<Backend::WorkPtr, std::shared_ptr<SparseOperation>> Backend::start_sparse(const SparseCall& asked) {
  Call call = this->call("sparse_all_reduce", OperationKind::kSparseAllReduce, c10d::OpType::ALLREDUCE, asked.timeout);
  const TensorChecks& check = call.check;
  check.require(!asked.tensors.empty(), "the list of tensors is empty.");
  check.require(asked.op.op_ == c10d::ReduceOp::SUM || asked.op.op_ == c10d::ReduceOp::AVG,
                "sparse tensors can be reduced with SUM or AVG only. Call .to_dense() first for others.");
  check.one_dtype("the tensors", asked.tensors);
  {
    std::lock_guard lock(coalescing_mutex_);
    check.require(!coalescing_, "sparse tensors cannot be coalesced.");
  }
  SparseTask task;
  task.method = check.accepted([&] { return method_named(asked.method); }), task.only_plans = asked.only_plans;
  task.sketch = asked.sketch;
  auto operation = std::make_shared<SparseOperation>(check, asked.tensors, asked.in_place);
  const at::ScalarType dtype = asked.tensors[0].scalar_type();
  if (task.method == Method::kSketch) check_sketch(check, asked.sketch, operation->row_bytes(), dtype);
  call.request.signature.dtype = dtype_of(dtype), call.request.signature.reduction = check.reduction(asked.op, dtype);
  task.signature = call.request.signature;
  task.reducer =
      check.accepted([&] { return make_sparse_reducer(task.signature.dtype, task.signature.reduction, getSize()); });
  return with_torch_errors([&]() -> std::pair<WorkPtr, std::shared_ptr<SparseOperation>> {
    const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
    task.rank = getRank(), task.topology = plans(call.request.timeout).topology();
    task.costs = costs(group, call.request.timeout);
    static_cast<Act&>(call.request) = operation->start(std::move(task));
    call.request.further_acts = operation->further_acts();
    call.request.next_act = [operation] { return operation->next(); };
    call.request.keep_alive = operation;
    ++sequence_;
    call.inputs = asked.tensors;
    auto work = make_work(call, [operation] { return TensorLists{operation->results()}; });
    return {remember(std::move(work), Engine::process().start(*group, std::move(call.request))), operation};
  });
}

}  // namespace merak
