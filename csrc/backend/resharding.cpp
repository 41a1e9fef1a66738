// Tensors from one layout to another: the room `resharding`, from and to tensors.

#include <ATen/core/LegacyTypeDispatch.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "backend/backend.h"
#include "backend/interruptible_wait.h"
#include "backend/torch_errors.h"
#include "collectives/kernels.h"
#include "transport/engine.h"
#include "transport/errors.h"

namespace merak {
namespace {

// One rank's tensors of a batch, and the acts that move them: first the ranks tell each other what they were asked for;
// then the parts of the plan are carried out, one after the other.
class Resharding {
 public:
  using Planned = Backend::PlannedPtr;
  using SomeTensors = Backend::SomeTensors;

  // `names`: of the group's ranks, for errors.
  Resharding(Planned planned, const SomeTensors& sources, const SomeTensors& targets, int rank, Statement own,
             std::vector<std::uint64_t> names)
      : planned_(std::move(planned)),
        rank_(rank),
        names_(std::move(names)),
        own_(std::move(own)),
        sources_(sources),
        targets_(targets) {
    if (!own_.problem.empty()) return;
    try {
      check_tensors();
    } catch (const std::exception& error) {  // out of memory, say: the others hear of it
      own_.problem = error.what();
    }
  }

  int further_acts() const { return static_cast<int>(planned_->parts().size()); }
  const SomeTensors& sources() const { return sources_; }
  const SomeTensors& targets() const { return targets_; }
  const std::string& problem() const { return own_.problem; }

  Act announce(const Topology& topology, Plans& plans) {
    const auto ranks = static_cast<std::size_t>(topology.size());
    said_.resize(kStatementBytes), heard_.resize(ranks * kStatementBytes);
    write(own_, said_.data());
    Act act{.signature = signature(), .program = {}, .input = {}, .output = {}, .reducer = {}};
    act.signature.bytes = kStatementBytes;
    act.program = plans.get({.kind = OperationKind::kAllGather, .bytes = kStatementBytes});
    act.input.append(said_.data(), said_.size());
    act.output.append(heard_.data(), heard_.size());
    return act;
  }

  // Throws MismatchError when the ranks cannot go on.
  void hear() {
    std::vector<Statement> statements;
    for (std::size_t at = 0; at < heard_.size(); at += kStatementBytes)
      statements.push_back(parse_statement(heard_.data() + at));
    const std::string problem = disagreement(statements, names_);
    if (!problem.empty()) throw MismatchError("reshard: " + problem + ". Nothing has been moved");
  }

  Act next() {
    if (begun_ == 0) hear();
    return part(begun_++);
  }

  // All ranks have come, and asked for the same.
  bool agreed() const { return begun_ > 0; }

  Act part(std::size_t index) {
    const PlannedMoves::Part& part = planned_->parts()[index];
    Act act{
        .signature = signature(), .program = planned_->program(index, rank_), .input = {}, .output = {}, .reducer = {}};
    for (std::size_t tensor : zeroed_tensors(part.batch, rank_))
      if (std::optional<at::Tensor>& target = targets_[part.moves[tensor]]) fill_with_zeros(*target);
    for (std::uint32_t move : part.moves) {
      if (sources_[move])
        act.input.append(const_cast<void*>(sources_[move]->const_data_ptr()), bytes_of(*sources_[move]));
      if (targets_[move]) act.output.append(targets_[move]->mutable_data_ptr(), bytes_of(*targets_[move]));
    }
    if (part.reduced) {
      act.signature.dtype = part.reduced->dtype, act.signature.reduction = part.reduced->reduction;
      act.reducer = make_reducer(part.reduced->dtype, part.reduced->reduction, part.reduced->divisor);
    }
    act.carries = [planned = planned_, index, rank = rank_](std::uint32_t step) {
      return planned->carried_by(index, rank, step);
    };
    return act;
  }

 private:
  // On any thread, also of a tensor that was made in inference mode.
  static void fill_with_zeros(at::Tensor& target) {
    if (target.is_cpu()) {
      std::memset(target.mutable_data_ptr(), 0, bytes_of(target));
      return;
    }
    const at::AutoDispatchBelowADInplaceOrView plain;
    target.zero_();
  }

  static Signature signature() { return {.kind = OperationKind::kReshard}; }

  void check_tensors() {
    const std::size_t moves = planned_->moves().size();
    if (sources_.size() != moves || targets_.size() != moves) {
      own_.problem = "it has " + std::to_string(sources_.size()) + " and " + std::to_string(targets_.size()) +
                     " tensors for a plan of " + std::to_string(moves);
      return;
    }
    for (const PlannedMoves::Part& part : planned_->parts())
      for (const bool is_source : {true, false}) check_side(part, is_source);
    if (own_.problem.empty()) keep_apart();
  }

  void check_side(const PlannedMoves::Part& part, bool is_source) {
    const LocalTensors local = is_source ? source_tensors(part.batch, rank_) : target_tensors(part.batch, rank_);
    SomeTensors& tensors = is_source ? sources_ : targets_;
    for (std::size_t i = 0; i < part.moves.size(); ++i) {
      std::optional<at::Tensor>& tensor = tensors[part.moves[i]];
      if (local.bytes(i) == 0) {
        tensor.reset();
        continue;
      }
      const std::string what = std::string("its ") + (is_source ? "source" : "target") + " of '" +
                               planned_->moves()[part.moves[i]].name + "'";
      if (!own_.problem.empty()) return;
      if (!tensor) {
        own_.problem = what + " is missing";
        return;
      }
      tensor = tensor->detach();
      check_tensor(*tensor, part.batch.moves[i], local.regions[i], what, is_source);
    }
  }

  void check_tensor(at::Tensor& tensor, const Move& move, const Region& region, const std::string& what,
                    bool is_source) {
    std::vector<std::int64_t> sizes;
    for (const RunList& runs : region.dims) sizes.push_back(static_cast<std::int64_t>(count(runs)));
    if (tensor.layout() != at::kStrided || tensor.is_quantized() || !tensor.has_storage())
      own_.problem = what + " is not a dense tensor";
    else if (tensor.sizes() != sizes)
      own_.problem = what + " has shape " + text(tensor.sizes()) + " here, where its layout says " + text(sizes);
    else if (dtype_of(tensor.scalar_type()) != move.dtype)
      own_.problem =
          what + " is of " + name(dtype_of(tensor.scalar_type())) + ", and " + name(move.dtype) + " was planned";
    else if (!is_source && (!tensor.is_contiguous() || tensor.is_conj() || tensor.is_neg()))
      own_.problem = what + " is not contiguous";
    else if (is_source)
      tensor = contiguous_input(tensor);
  }

  static std::string text(at::IntArrayRef sizes) {
    std::string text = "(";
    for (std::size_t i = 0; i < sizes.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
    return text + ")";
  }

  // A source may be written over as a target, of its own tensor or another: it is copied.
  void keep_apart() {
    std::vector<at::Tensor> written;
    for (const std::optional<at::Tensor>& target : targets_)
      if (target) written.push_back(*target);
    std::vector<at::Tensor> read;
    for (const std::optional<at::Tensor>& source : sources_)
      if (source) read.push_back(*source);
    if (!share_memory(read, written)) return;
    for (std::optional<at::Tensor>& source : sources_)
      if (source && share_memory({*source}, written)) source = source->clone();
  }

  const Planned planned_;
  const int rank_;
  const std::vector<std::uint64_t> names_;
  Statement own_;
  SomeTensors sources_, targets_;  // by move; none where this rank has no bytes of it
  std::vector<std::byte> said_, heard_;
  std::atomic<std::size_t> begun_ = 0;  // parts
};

std::string problem_of(const Backend::SomeTensors& sources, const Backend::SomeTensors& targets, at::Device device) {
  if (!device.is_cpu() && !device.is_cuda()) return "its tensors are on " + device.str();
  if (device.is_cuda() && !CudaPrograms::built()) return CudaPrograms::kMissing;
  for (const auto* tensors : {&sources, &targets})
    for (const std::optional<at::Tensor>& tensor : *tensors)
      if (tensor && tensor->numel() > 0 && tensor->device() != device)
        return "its tensors are on " + device.str() + " and " + tensor->device().str() + "; move each kind by itself";
  return "";
}

}  // namespace

Network Backend::network(std::chrono::milliseconds timeout) {
  return with_torch_errors([&] {
    Network network = network_of(plans(timeout_or_default(timeout)).topology().host_of);
    const std::optional<Costs> measured = measured_costs();
    if (!measured) return network;
    const double between = 1 / measured->seconds_per_byte, inside = 1 / measured->seconds_per_byte_inside;
    for (HostLinks& host : network.hosts)
      host = {.out_bytes_per_s = between, .in_bytes_per_s = between, .inside_bytes_per_s = inside};
    network.latency_s = measured->latency_s, network.latency_inside_s = measured->latency_inside_s;
    network.per_message_s = measured->per_message_s;
    network.reduce_seconds_per_byte = measured->reduce_seconds_per_byte;
    return network;
  });
}

Backend::Reshard Backend::reshard(const PlannedPtr& planned, const SomeTensors& sources, const SomeTensors& targets,
                                  at::Device device, const std::string& problem, int priority,
                                  std::chrono::milliseconds timeout) {
  Call call = this->call("reshard", OperationKind::kReshard, c10d::OpType::ALLTOALL, timeout);
  call.check.require(planned->network().ranks() == getSize(),
                     "the plan is for " + std::to_string(planned->network().ranks()) + " ranks, the group has " +
                         std::to_string(getSize()) + ".");
  Statement own = planned->statement();
  own.problem = problem.empty() ? problem_of(sources, targets, device) : problem;
  own.hash[Statement::kDevice] = device.is_cuda();
  auto resharding = std::make_shared<Resharding>(planned, sources, targets, getRank(), std::move(own),
                                                 options_->global_ranks_in_group);
  return with_torch_errors([&]() -> Reshard {
    Plans& plans = this->plans(call.request.timeout);
    static_cast<Act&>(call.request) = resharding->announce(plans.topology(), plans);
    call.request.priority = priority;
    call.request.keep_alive = resharding;
    for (const std::optional<at::Tensor>& tensor : resharding->sources())
      if (tensor) call.inputs.push_back(*tensor);
    std::vector<at::Tensor> results;
    for (const std::optional<at::Tensor>& tensor : resharding->targets())
      if (tensor) results.push_back(*tensor);
    if (device.is_cuda()) {
      const auto acts = [resharding] {
        resharding->hear();
        std::vector<Act> acts;
        for (int part = 0; part < resharding->further_acts(); ++part)
          acts.push_back(resharding->part(static_cast<std::size_t>(part)));
        return acts;
      };
      return {reshard_on_cuda(std::move(call), planned, device, std::move(results), acts), [] { return true; }};
    }
    call.request.further_acts = resharding->further_acts();
    call.request.next_act = [resharding] { return resharding->next(); };
    auto work = start_request(std::move(call), [results = std::move(results)] { return TensorLists{results}; });
    const std::weak_ptr<Resharding> weak = resharding;  // which has the tensors
    const auto agreed = [weak] {
      const auto alive = weak.lock();
      return !alive || alive->agreed();
    };
    return {std::move(work), agreed};
  });
}

// As start_on_cuda() has it: the statements are exchanged while the caller waits; then the parts are put on a stream.
Backend::WorkPtr Backend::reshard_on_cuda(Call call, const PlannedPtr& planned, at::Device device,
                                          std::vector<at::Tensor> results,
                                          const std::function<std::vector<Act>()>& acts) {
  const auto deadline = Clock::now() + call.request.timeout;
  const Topology topology = plans(call.request.timeout).topology();
  const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
  ++sequence_;
  CudaPrograms::Call program{.about = about(call),
                             .device = device,
                             .inputs = call.inputs,
                             .outputs = results,
                             .memory = call.inputs,
                             .deadline = deadline,
                             .topology = topology};
  program.memory.insert(program.memory.end(), results.begin(), results.end());
  try {
    wait_interruptibly(*Engine::process().start(*group, std::move(call.request)));
    WorkPtr last;
    std::size_t part = 0;
    for (Act& act : acts()) {
      last = cuda_programs().start({std::move(act), *planned->rounds(part, getRank())}, program);
      ++part;
    }
    return last;
  } catch (const std::exception& error) {
    // The other ranks must not wait for what this one does not send.
    if (!membership_->failure())
      membership_->abort("reshard of CUDA tensors ended on rank " + std::to_string(getRank()) + ": " + error.what());
    throw;
  }
}

void Backend::refuse_reshard(const std::string& reason) const {
  call("reshard", OperationKind::kReshard, c10d::OpType::ALLTOALL, kNoTimeout).check.require(false, reason);
}

}  // namespace merak
