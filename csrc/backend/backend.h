#pragma once
// The backend "merak": what torch.distributed calls.
//
// CPU tensors travel over the process's engine, CUDA tensors over an inner backend (NCCL), made when the first one
// comes, or by merak's own programs (cuda_programs.h). A call becomes a Signature (what ranks must agree on), a shape
// (from which the program follows) and two Buffers; lists of tensors are pieces of one Buffer and are never copied
// together. backend.cpp has the group's life, calls_that_*.cpp and sparse_all_reduce.cpp the calls, starting.cpp what
// they have in common.

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "backend/call.h"
#include "backend/cuda_programs.h"
#include "backend/meeting.h"
#include "backend/membership.h"
#include "backend/plans.h"
#include "backend/table_update.h"
#include "backend/torch_store.h"
#include "backend/work.h"
#include "embedding/lookup_acts.h"
#include "resharding/planned_moves.h"
#include "sparse/plan.h"
#include "sparse/sketch_layout.h"

namespace merak {

class SparseOperation;  // sparse_all_reduce.cpp

// Thread-safe, as far as c10d is: collectives must start in the same order on all ranks.
class Backend final : public c10d::Backend {
 public:
  struct Options final : c10d::Backend::Options {
    explicit Options(std::chrono::milliseconds timeout = kBackendDefaultTimeout)
        : c10d::Backend::Options("merak", timeout) {}
#ifdef C10D_BACKEND_HAS_HOOKS
    c10::intrusive_ptr<c10d::Backend::Options> clone() const override { return c10::make_intrusive<Options>(*this); }
#endif
  };

  // What it gets from the world around it, and hands on to the groups split off it.
  struct Surroundings {
    std::string registered_name = "merak";  // before the ':' of profiler ranges
    std::string rendezvous_host;            // where the store is served, if known
    // Makes the backend for CUDA tensors of a group; throws when there can be none. May be empty.
    std::function<c10::intrusive_ptr<c10d::Backend>(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                                    std::chrono::milliseconds timeout, const std::string& group)>
        make_cuda_backend;
  };

  // `store` is the group's own: its keys have the group's prefix.
  Backend(c10::intrusive_ptr<c10d::Store> store, int rank, int size, c10::intrusive_ptr<Options> options,
          Surroundings surroundings);
  ~Backend() override;

  // Life of the group.
  const std::string getBackendName() const override { return "merak"; }
  c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override { return options_; }
  void setTimeout(std::chrono::milliseconds timeout) override;
  bool supportsSplitting() const override { return true; }
  c10::intrusive_ptr<c10d::Backend> split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                          const c10::intrusive_ptr<c10d::Backend::Options>& options) override;
  c10::intrusive_ptr<c10d::Backend> merge(const c10::intrusive_ptr<c10d::Store>& store,
                                          const c10::intrusive_ptr<c10d::Backend::Options>& options, const int& rank,
                                          const int& size) override;
  // The group of some of this group's ranks, in rising order, this one among them; made when it is first asked for,
  // without the others. It ends with this group.
  c10::intrusive_ptr<Backend> over(const std::vector<int>& ranks);
  // Fails what is in flight, on all ranks, with that reason: a network error, as every group that is aborted.
  void end(const std::string& reason) { membership_->abort(reason); }
  bool supportsCoalescing() const override;
  void startCoalescing() override;
  c10::intrusive_ptr<c10d::Work> endCoalescing() override;
  void setSequenceNumberForGroup() override {}
  std::uint64_t getSequenceNumberForGroup() override { return sequence_; }
  c10d::ErrorType getError() override;
  void abort() override;
  void shutdown() override;

  // Collectives.
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;
  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPtr allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkPtr allgather(TensorLists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_coalesced(TensorLists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override;
  WorkPtr gather(TensorLists& outputs, Tensors& inputs, const c10d::GatherOptions& options) override;
  WorkPtr scatter(Tensors& outputs, TensorLists& inputs, const c10d::ScatterOptions& options) override;
  WorkPtr reduce_scatter(Tensors& outputs, TensorLists& inputs, const c10d::ReduceScatterOptions& options) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& options) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<std::int64_t>& output_splits,
                        std::vector<std::int64_t>& input_splits, const c10d::AllToAllOptions& options) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override;
  WorkPtr barrier(const c10d::BarrierOptions& options) override;
  void monitoredBarrier(const c10d::BarrierOptions& options, bool wait_all_ranks) override;

  // Point to point.
  WorkPtr send(Tensors& tensors, int to, int tag) override;
  WorkPtr recv(Tensors& tensors, int from, int tag) override;
  WorkPtr recvAnysource(Tensors& tensors, int tag) override;

  // all_reduce with AVG of one tensor; of messages that are ready, those of operations with a higher priority go first.
  WorkPtr average(const at::Tensor& tensor, int priority, std::chrono::milliseconds timeout);

  // Sums or averages of tensors of which each rank has a few rows (sparse_argument.h), in one exchange; out of place:
  // result() of the Work has them. `method`: as sparse/plan.h names them.
  WorkPtr sparse_all_reduce(const Tensors& tensors, const c10d::ReduceOp& op, const std::string& method,
                            std::chrono::milliseconds timeout);
  // By the lossy method, of one tensor of fp32 or fp64. result(): the estimate of the sum, or average; with feedback,
  // behind it what this rank keeps, laid out likewise.
  WorkPtr sketch_all_reduce(const at::Tensor& tensor, const c10d::ReduceOp& op, const SketchBudget& budget,
                            std::chrono::milliseconds timeout);
  // Raises ValueError with this reason, on this rank, and an error on the others: for arguments that were found to be
  // wrong before one of these calls.
  void refuse_sparse_all_reduce(const std::string& reason) const;
  // How that would be done, by tensor: the ranks exchange their bitmaps, and nothing else. Waits.
  std::vector<TablePlan> sparse_plans(const Tensors& tensors, const std::string& method,
                                      std::chrono::milliseconds timeout);

  // The number of a table over this group: all ranks make theirs in the same order.
  int new_table() { return tables_++; }
  // A lookup in a table that is split over the ranks: `shard` is this rank's part of it, contiguous; `ids` of any
  // shape. result() of the Work: a whole row for each. Once it is done, batch() is what the gradient goes back by.
  using BatchPtr = std::shared_ptr<const PreparedBatch>;
  struct Lookup {
    WorkPtr work;
    std::function<BatchPtr()> batch;
  };
  // `padding`: a row that gets no gradient, or -1. `prepare_gradient`: how it goes is worked out while rows travel.
  Lookup embedding_lookup(const at::Tensor& shard, const at::Tensor& ids, const Split& split, std::int64_t padding,
                          bool prepare_gradient, int priority, std::chrono::milliseconds timeout);
  // Of that, the ranks tell each other which rows they read, and no more: there is a batch, whose rows are looked up
  // later, in parts perhaps.
  Lookup embedding_announce(const at::Tensor& shard, const at::Tensor& ids, const Split& split, std::int64_t padding,
                            int priority, std::chrono::milliseconds timeout);
  // The rows of a batch, or of a part of one: `rows`, of the batch's tokens, [tokens, columns], is filled where they
  // read them.
  WorkPtr embedding_rows(const BatchPtr& batch, const at::Tensor& shard, const at::Tensor& rows, int priority,
                         std::chrono::milliseconds timeout);
  // The gradient of that, averaged over the ranks. `gradient`: as the lookup's result. result() of the Work: which of
  // this rank's rows have one, ascending, int64, counted from its first; and of each its columns, in the dtype of the
  // gradient.
  WorkPtr embedding_gradient(const BatchPtr& batch, const at::Tensor& gradient, int priority,
                             std::chrono::milliseconds timeout);
  // In one operation: that gradient; the table changed by it; then, as embedding_rows() does it, the rows of `next`,
  // unless that is null.
  WorkPtr embedding_update(const BatchPtr& batch, const at::Tensor& gradient, const TableUpdate& update,
                           const BatchPtr& next, const at::Tensor& rows, int priority,
                           std::chrono::milliseconds timeout);
  // Raises ValueError with this reason, on this rank, and an error on the others.
  void refuse_embedding(const std::string& reason) const;

  // Who shares a host in this group, and what its links carry: as measured if that has been done, here or in the group
  // that this one is over (costs.cpp), else what is usual. The first time it waits for all ranks to have made the
  // group.
  Network network(std::chrono::milliseconds timeout);
  // Measures it, unless that was done; called by all ranks.
  void measure(std::chrono::milliseconds timeout);
  // Tensors from layout to layout. By move: this rank's part of the source, and that of the target, which is written;
  // none where it has no bytes of it. `problem`: why this rank cannot take part, which all ranks then raise; or "".
  // result() of the Work: this rank's targets. agreed(): all ranks have started it, and asked for the same.
  struct Reshard {
    WorkPtr work;
    std::function<bool()> agreed;
  };
  using PlannedPtr = std::shared_ptr<const PlannedMoves>;
  using SomeTensors = std::vector<std::optional<at::Tensor>>;
  Reshard reshard(const PlannedPtr& planned, const SomeTensors& sources, const SomeTensors& targets, at::Device device,
                  const std::string& problem, int priority, std::chrono::milliseconds timeout);
  // Raises ValueError with this reason, on this rank, and an error on the others.
  void refuse_reshard(const std::string& reason) const;

 private:
  struct SparseCall {
    const Tensors& tensors;
    c10d::ReduceOp op;
    const std::string& method;
    std::chrono::milliseconds timeout;
    bool in_place = false, only_plans = false;
    SketchBudget sketch = {};
  };

  // The backend for CUDA tensors when `tensor` is one; else null. It has been told of a coalescing that is going on.
  c10d::Backend* on_cuda(const at::Tensor& tensor);
  c10d::Backend* cuda_backend();
  CudaPrograms& cuda_programs();
  CudaPrograms* existing_cuda_programs();  // null: none were needed
  WorkPtr noted(WorkPtr on_cuda);

  std::vector<Backend*> groups_over();
  std::optional<Costs> measured_costs();
  void take_costs(const std::optional<Costs>& measured);  // unless it has its own
  void announce_refusal(OperationKind kind, std::chrono::milliseconds timeout) const;
  Call call(const char* operation, OperationKind kind, c10d::OpType type, std::chrono::milliseconds timeout) const;
  Clock::duration timeout_or_default(std::chrono::milliseconds timeout) const;

  // Starts what `call` says and remembers it if a coalescing is going on. `peer`: of a point-to-point call.
  WorkPtr start(Call call);
  WorkPtr start_point_to_point(Call call, int peer, int tag);
  Work::About about(const Call& call) const;
  c10::intrusive_ptr<Work> make_work(const Call& call);  // its outputs are the call's
  c10::intrusive_ptr<Work> make_work(const Call& call, Work::Outputs outputs, bool several_lists = false);
  WorkPtr remember(c10::intrusive_ptr<Work> work, std::shared_ptr<Operation> operation);
  Plans& plans(Clock::duration timeout);
  // Measured when it is called for the first time, by all ranks alike; waits for that.
  const Costs& costs(const std::shared_ptr<Group>& group, Clock::time_point deadline);

  // Shared by the public calls.
  WorkPtr all_reduce(Call call, const Tensors& tensors, const c10d::ReduceOp& op);
  WorkPtr all_reduce_sparse_tensors(Tensors& tensors, const c10d::AllreduceOptions& options);
  std::pair<WorkPtr, std::shared_ptr<SparseOperation>> start_sparse(const SparseCall& asked);
  void check_sparse(const TensorChecks& check, const SparseCall& asked);
  WorkPtr start_on_cuda(Call call, SparseOperation& operation);
  WorkPtr reshard_on_cuda(Call call, const PlannedPtr& planned, at::Device device, std::vector<at::Tensor> results,
                          const std::function<std::vector<Act>()>& acts);
  // Starts what `call` says, which has a program of its own. `result`: of the Work.
  WorkPtr start_request(Call call, Work::Outputs result);
  Lookup start_lookup(Call call, const at::Tensor& shard, const at::Tensor& ids, LookupTask task);
  WorkPtr all_gather(Call call, const Tensors& inputs, const Tensors& outputs, TensorLists result);
  WorkPtr reduce_scatter(Call call, const Tensors& outputs, const Tensors& inputs, const c10d::ReduceOp& op);

  const c10::intrusive_ptr<Options> options_;
  std::atomic<int> tables_{0};
  const Surroundings surroundings_;
  const std::shared_ptr<TorchStore> store_;
  const std::shared_ptr<Membership> membership_;
  Meeting meeting_;
  std::atomic<std::uint64_t> sequence_{0};

  std::mutex over_mutex_;
  std::map<std::vector<int>, c10::intrusive_ptr<Backend>> over_;

  std::mutex plans_mutex_;
  std::unique_ptr<Plans> plans_;

  std::mutex costs_mutex_;
  std::optional<Costs> costs_;

  std::mutex cuda_mutex_;
  c10::intrusive_ptr<c10d::Backend> cuda_;
  ProcessPtr<CudaPrograms> cuda_programs_;

  std::mutex coalescing_mutex_;
  bool coalescing_ = false, cuda_coalescing_ = false;
  std::vector<WorkPtr> coalesced_;
};

}  // namespace merak
