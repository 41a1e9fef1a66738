// How a call is started: its program is looked up, its work made, and the engine told. And the calls without a shape:
// barriers, sends and receives.

#include <algorithm>
#include <set>
#include <utility>

#include "backend/backend.h"
#include "backend/torch_errors.h"
#include "transport/engine.h"

namespace merak {
namespace {

constexpr auto kToAnnounceRefusal = std::chrono::seconds(5);  // for opening a group that was not used before

// "merak:all_reduce", for the profiler, which keeps the pointer: so the texts are kept for good.
const char* profiler_title(const std::string& backend, const char* operation) {
  static auto* mutex = new std::mutex;
  static auto* titles = new std::set<std::string>;
  std::lock_guard lock(*mutex);
  return titles->insert(backend + ":" + operation).first->c_str();
}

}  // namespace

Clock::duration Backend::timeout_or_default(std::chrono::milliseconds timeout) const {
  return std::min(timeout > std::chrono::milliseconds::zero() ? timeout : options_->timeout, kLongestTimeout);
}

// The other ranks must not wait for a collective that this rank refuses, nor take its next one for it.
void Backend::announce_refusal(OperationKind kind, std::chrono::milliseconds timeout) const {
  if (kind == OperationKind::kSend) return;
  try {
    const auto group = membership_->group(std::min<Clock::duration>(timeout_or_default(timeout), kToAnnounceRefusal));
    Engine::process().refuse(*group, kind);
  } catch (const std::exception&) {
    // Nobody can be told: the group has ended, or cannot be opened. The error that follows says what is wrong here.
  }
}

Call Backend::call(const char* operation, OperationKind kind, c10d::OpType type,
                   std::chrono::milliseconds timeout) const {
  const auto before_refusing = [this, kind, timeout] { announce_refusal(kind, timeout); };
  Call call(operation, type, TensorChecks(operation, getSize(), before_refusing));
  call.shape.kind = call.request.signature.kind = kind;
  call.request.timeout = timeout_or_default(timeout);
  return call;
}

Plans& Backend::plans(Clock::duration timeout) {
  std::lock_guard lock(plans_mutex_);
  if (!plans_) plans_ = std::make_unique<Plans>(getRank(), meeting_.topology(timeout));
  return *plans_;
}

c10::intrusive_ptr<Work> Backend::make_work(const Call& call) {
  return make_work(
      call, [outputs = call.outputs] { return outputs; }, call.outputs.size() > 1);
}

Work::About Backend::about(const Call& call) const {
  Work::About about;
  about.type = call.type;
  about.profiler_title = profiler_title(surroundings_.registered_name, call.operation);
  about.text = describe(call.request.signature);
  about.sequence = sequence_;
  about.waited = call.waited;
  return about;
}

c10::intrusive_ptr<Work> Backend::make_work(const Call& call, Work::Outputs outputs, bool several_lists) {
  return c10::make_intrusive<Work>(membership_, about(call), call.inputs, std::move(outputs), several_lists);
}

Backend::WorkPtr Backend::remember(c10::intrusive_ptr<Work> work, std::shared_ptr<Operation> operation) {
  work->started(std::move(operation));
  std::lock_guard lock(coalescing_mutex_);
  if (coalescing_) coalesced_.push_back(work);
  return work;
}

Backend::WorkPtr Backend::start(Call call) {
  return with_torch_errors([&] {
    const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
    call.request.program = plans(call.request.timeout).get(call.shape);
    call.request.keep_alive = std::make_shared<std::vector<c10::Storage>>(std::move(call.memory));
    ++sequence_;
    auto work = make_work(call);
    return remember(std::move(work), Engine::process().start(*group, std::move(call.request)));
  });
}

Backend::WorkPtr Backend::start_request(Call call, Work::Outputs result) {
  return with_torch_errors([&] {
    const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
    ++sequence_;
    auto work = make_work(call, std::move(result));
    return remember(std::move(work), Engine::process().start(*group, std::move(call.request)));
  });
}

Backend::WorkPtr Backend::barrier(const c10d::BarrierOptions& options) {
  if (options.device && options.device->is_cuda())
    return noted(with_torch_errors([&] { return cuda_backend(); })->barrier(options));
  return start(call("barrier", OperationKind::kBarrier, c10d::OpType::BARRIER, options.timeout));
}

void Backend::monitoredBarrier(const c10d::BarrierOptions& options, bool wait_all_ranks) {
  const auto timeout = options.timeout == c10d::kUnsetTimeout ? options_->timeout : options.timeout;
  with_torch_errors([&] { meeting_.monitored_barrier(timeout, wait_all_ranks); });
}

// Point to point ------------------------------------------------------------------------------------------------------

Backend::WorkPtr Backend::start_point_to_point(Call call, int peer, int tag) {
  call.check.require(tag >= 0, "the tag is " + std::to_string(tag) + "; tags are 0 or more.");
  return with_torch_errors([&] {
    const std::shared_ptr<Group> group = membership_->group(call.request.timeout);
    call.request.keep_alive = std::make_shared<std::vector<c10::Storage>>(std::move(call.memory));
    auto work = make_work(call);
    Engine& engine = Engine::process();
    auto operation = call.type == c10d::OpType::SEND ? engine.send(*group, peer, tag, std::move(call.request))
                                                     : engine.receive(*group, peer, tag, std::move(call.request));
    return remember(std::move(work), std::move(operation));
  });
}

Backend::WorkPtr Backend::send(Tensors& tensors, int to, int tag) {
  Call call = this->call("send", OperationKind::kSend, c10d::OpType::SEND, c10d::kUnsetTimeout);
  call.check.count("the list of tensors", tensors.size(), 1);
  if (auto* cuda = on_cuda(tensors[0])) return cuda->send(tensors, to, tag);
  call.check.rank("the receiver", to);
  call.check.require(to != getRank(), "the receiver is this rank itself; copy the tensor instead.");
  call.read(tensors[0]);
  call.set_size(tensors[0].scalar_type(), bytes_of(tensors[0]));
  call.inputs = tensors;
  return start_point_to_point(std::move(call), to, tag);
}

Backend::WorkPtr Backend::recv(Tensors& tensors, int from, int tag) {
  Call call = this->call("recv", OperationKind::kSend, c10d::OpType::RECV, c10d::kUnsetTimeout);
  call.check.count("the list of tensors", tensors.size(), 1);
  if (auto* cuda = on_cuda(tensors[0])) return cuda->recv(tensors, from, tag);
  call.check.rank("the sender", from);
  call.check.require(from != getRank(), "the sender is this rank itself; copy the tensor instead.");
  call.check.writable("the tensor", tensors[0]);
  call.write(tensors[0]);
  call.set_size(tensors[0].scalar_type(), bytes_of(tensors[0]));
  call.inputs = tensors, call.outputs = {tensors};
  return start_point_to_point(std::move(call), from, tag);
}

Backend::WorkPtr Backend::recvAnysource(Tensors& tensors, int tag) {
  Call call = this->call("recvAnySource", OperationKind::kSend, c10d::OpType::RECVANYSOURCE, c10d::kUnsetTimeout);
  call.check.count("the list of tensors", tensors.size(), 1);
  if (auto* cuda = on_cuda(tensors[0])) return cuda->recvAnysource(tensors, tag);
  call.check.require(getSize() > 1, "there is nobody to receive from in a group of one rank.");
  call.check.writable("the tensor", tensors[0]);
  call.write(tensors[0]);
  call.set_size(tensors[0].scalar_type(), bytes_of(tensors[0]));
  call.inputs = tensors, call.outputs = {tensors};
  return start_point_to_point(std::move(call), kAnySource, tag);
}

}  // namespace merak
