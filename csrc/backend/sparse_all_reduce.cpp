// all_reduce of sparse tensors, and of dense ones with zero rows: the room `sparse`, from and to tensors.

#include <memory>
#include <optional>
#include <utility>

#include "backend/backend.h"
#include "backend/interruptible_wait.h"
#include "backend/sparse_argument.h"
#include "backend/torch_errors.h"
#include "sparse/statistics.h"
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
    task.energies_on_device = [this](std::size_t i, const RowSums& rows) {
      return energies_on_cuda(arguments_[i].memory(), rows);
    };
    reduction_.emplace(std::move(task));
    return reduction_->announce();
  }
  int further_acts() const { return reduction_->further_acts(); }
  Act next() { return reduction_->next(); }
  DeviceShare device_share() { return reduction_->device_share(); }

  // Once it is done: by argument; then what this rank keeps.
  const Backend::Tensors& results() const { return results_; }
  // What the rows lie in, of the arguments and of the results.
  Backend::Tensors memory() const {
    Backend::Tensors all;
    for (const at::Tensor& result : results_) all.push_back(result.is_sparse() ? result._values() : result);
    for (const SparseArgument& argument : arguments_)
      if (argument.memory().defined()) all.push_back(argument.memory());
    return all;
  }
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

void Backend::refuse_sparse_all_reduce(const std::string& reason) const {
  call("sparse_all_reduce", OperationKind::kSparseAllReduce, c10d::OpType::ALLREDUCE, kNoTimeout)
      .check.require(false, reason);
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
  check_sparse(call.check, asked);
  SparseTask task;
  task.method = call.check.accepted([&] { return method_named(asked.method); }), task.only_plans = asked.only_plans;
  task.sketch = asked.sketch;
  task.on_device = asked.tensors[0].is_cuda();
  call.check.require(
      !task.on_device || task.method != Method::kSketchExact,
      "the method 'sketch-exact' takes tensors on CPU only. Use 'balanced', which gives the same sums in "
      "less time: NCCL can do more than add.");
  auto operation = std::make_shared<SparseOperation>(call.check, asked.tensors, asked.in_place);
  const at::ScalarType dtype = asked.tensors[0].scalar_type();
  if (task.method == Method::kSketch) check_sketch(call.check, asked.sketch, operation->row_bytes(), dtype);
  call.request.signature.dtype = dtype_of(dtype);
  call.request.signature.reduction = call.check.reduction(asked.op, dtype);
  task.signature = call.request.signature;
  task.reducer = call.check.accepted(
      [&] { return make_sparse_reducer(task.signature.dtype, task.signature.reduction, getSize()); });
  return with_torch_errors([&]() -> std::pair<WorkPtr, std::shared_ptr<SparseOperation>> {
    const auto deadline = Clock::now() + call.request.timeout;
    const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
    task.rank = getRank(), task.topology = plans(call.request.timeout).topology();
    if (task.method == Method::kAuto || task.only_plans) {
      task.costs = costs(group, deadline);
      call.request.timeout = deadline - Clock::now();
    }
    static_cast<Act&>(call.request) = operation->start(std::move(task));
    call.request.further_acts = operation->further_acts();
    call.request.next_act = [operation] { return operation->next(); };
    call.request.keep_alive = operation;
    ++sequence_;
    call.inputs = asked.tensors, call.waited = &count_wait;
    if (asked.tensors[0].is_cuda() && !asked.only_plans) return {start_on_cuda(std::move(call), *operation), operation};
    auto work = make_work(call, [operation] { return TensorLists{operation->results()}; });
    const auto started = Engine::process().start(*group, std::move(call.request));
    started->on_done(
        [begin = Clock::now()] { count_operation(std::chrono::duration<double>(Clock::now() - begin).count()); });
    return {remember(std::move(work), started), operation};
  });
}

void Backend::check_sparse(const TensorChecks& check, const SparseCall& asked) {
  check.require(!asked.tensors.empty(), "the list of tensors is empty.");
  check.require(asked.op.op_ == c10d::ReduceOp::SUM || asked.op.op_ == c10d::ReduceOp::AVG,
                "sparse tensors can be reduced with SUM or AVG only. Call .to_dense() first for others.");
  check.one_dtype("the tensors", asked.tensors);
  const at::Device device = asked.tensors[0].device();
  for (const at::Tensor& tensor : asked.tensors)
    check.require(tensor.device() == device, "the tensors are on " + device.str() + " and " + tensor.device().str() +
                                                 "; make one call for each device.");
  check.require(!device.is_cuda() || CudaPrograms::built(), CudaPrograms::kMissing);
  const auto used = device.is_cuda() ? with_torch_errors([&] { return cuda_programs().device(); }) : std::nullopt;
  check.require(!used || *used == device, "the tensors are on " + device.str() +
                                              ", but this group has reduced some on " + (used ? used->str() : "") +
                                              ": a group uses one GPU a rank.");
  std::lock_guard lock(coalescing_mutex_);
  check.require(!coalescing_, "sparse tensors cannot be coalesced.");
}

// The rows are on GPUs, what the ranks tell each other of them is not: that they exchange first, while the caller
// waits. So NCCL, which matches by order, meets operations in the order of calls.
Backend::WorkPtr Backend::start_on_cuda(Call call, SparseOperation& operation) {
  const auto deadline = Clock::now() + call.request.timeout;
  CudaPrograms::Call program{.about = about(call),
                             .device = call.inputs[0].device(),
                             .inputs = call.inputs,
                             .outputs = {},
                             .memory = {},
                             .deadline = deadline,
                             .topology = plans(call.request.timeout).topology()};
  const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
  try {
    wait_interruptibly(*Engine::process().start(*group, std::move(call.request)));
    const DeviceShare share = operation.device_share();
    program.outputs = operation.results(), program.memory = operation.memory();
    return cuda_programs().start(share, std::move(program));
  } catch (const std::exception& error) {
    // The other ranks must not wait for what this one does not send.
    if (membership_->failure()) throw;
    membership_->abort(std::string("sparse_all_reduce of CUDA tensors ended on rank ") + std::to_string(getRank()) +
                       ": " + error.what());
    throw;
  }
}

CudaPrograms& Backend::cuda_programs() {
  std::lock_guard lock(cuda_mutex_);
  membership_->check_usable();
  if (!cuda_programs_) cuda_programs_.reset(CudaPrograms::make(membership_).release());
  return *cuda_programs_;
}

}  // namespace merak
