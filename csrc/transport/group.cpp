#include "transport/group.h"

#include <utility>

namespace merak {
namespace {

// How much one round of progress moves on one link, or computes, before it looks at the next.
constexpr std::size_t kRound = 1024 * 1024;

std::shared_ptr<const PreparedProgram> single_step(StepKind kind, int peer, std::size_t bytes) {
  Program program;
  if (kind == StepKind::kSend)
    program.send(peer, {kInput, 0}, bytes);
  else
    program.receive(peer, {kOutput, 0}, bytes);
  return std::make_shared<const PreparedProgram>(std::move(program));
}

}  // namespace

Group::Group(GroupIdentity identity, std::unique_ptr<Transport> transport, Farewell farewell)
    : identity_(std::move(identity)), transport_(std::move(transport)), farewell_(std::move(farewell)) {
  for (int rank = 0; rank < identity_.size; ++rank) peers_.emplace_back(rank, *this);
}

Group::~Group() = default;

// Starting ------------------------------------------------------------------------------------------------------------

std::shared_ptr<Operation> Group::start_collective(std::shared_ptr<ActiveOperation> operation) {
  const int further = operation->request.further_acts;
  const std::uint64_t first = next_collective_.fetch_add(1 + further, std::memory_order_relaxed);
  for (int act = 1; act <= further; ++act) reserved_.insert(first + act);
  operation->id = {.sequence = first}, operation->acts_left = further;
  collectives_[first] = operation.get();
  auto handle = enter(operation);
  if (!handle->done()) guard(-1, [&] { launch(*operation); });
  return handle;
}

void Group::refuse_collective(OperationKind kind) {
  if (failure_) return;
  const std::uint64_t sequence = next_collective_.fetch_add(1, std::memory_order_relaxed);
  refused_.insert(sequence);
  refused_by_peer_.erase(sequence);
  const Frame refusal = {.kind = FrameKind::kRefuse, .id = {.sequence = sequence}, .signature = {.kind = kind}};
  guard(-1, [&] {
    for (int peer = 0; peer < identity_.size; ++peer) {
      if (peer == identity_.rank) continue;
      ask_for_link(peer);
      peers_[peer].channel.queue_control(refusal);
      const auto early = peers_[peer].early.find(refusal.id);
      if (early != peers_[peer].early.end()) check_not_past(peer, early->second.first);
    }
  });
}

std::shared_ptr<Operation> Group::start_send(std::shared_ptr<ActiveOperation> operation, int peer, std::uint32_t tag) {
  operation->id = {1, tag, peers_[peer].next_send[tag]++};
  operation->request.program = single_step(StepKind::kSend, peer, operation->request.input.size());
  auto handle = enter(operation);
  if (!handle->done()) guard(-1, [&] { launch(*operation); });
  return handle;
}

std::shared_ptr<Operation> Group::start_receive(std::shared_ptr<ActiveOperation> operation, int peer,
                                                std::uint32_t tag) {
  operation->id = {.point_to_point = 1, .tag = tag};
  auto handle = enter(operation);
  if (handle->done()) return handle;
  guard(-1, [&] {
    if (peer != kAnySource) return bind(*operation, peer, tag);
    for (int other = 0; other < identity_.size; ++other) ask_for_link(other);
    if (!bind_to_early(*operation, tag)) any_source_.push_back({operation.get(), tag});
  });
  return handle;
}

void Group::bind(ActiveOperation& operation, int from, std::uint32_t tag) {
  operation.id = {1, tag, peers_[from].next_receive[tag]++};
  operation.request.program = single_step(StepKind::kReceive, from, operation.request.output.size());
  operation.handle->set_source(from);
  launch(operation);
}

std::shared_ptr<Operation> Group::enter(const std::shared_ptr<ActiveOperation>& operation) {
  operations_.fetch_add(1, std::memory_order_relaxed);
  auto handle = operation->handle;
  if (failure_) {
    collectives_.erase(operation->id.sequence);
    handle->finish(error_of(*operation));
    return handle;
  }
  if (logs(LogLevel::kDebug)) log_event(LogLevel::kDebug, "starts " + describe(*operation));
  active_[operation.get()] = operation;
  deadlines_.emplace(operation->deadline, operation.get());
  return handle;
}

void Group::launch(ActiveOperation& operation) {
  const auto keep = operation.shared_from_this();
  watch_neighbours();
  check_not_refused(operation);
  operation.prepare();
  if (operation.steps_left == 0) return finish_act(operation);
  for (const auto& [peer, messages] : operation.program().receives()) expect(operation, peer, messages);
  check_early(operation);
  for (const auto& [peer, messages] : operation.program().sends()) prepare_to_send(operation, peer, messages);
  std::vector<std::uint32_t> first;
  for (std::uint32_t step = 0; step < operation.program().size(); ++step)
    if (operation.waiting_for[step] == 0) first.push_back(step);
  for (std::uint32_t step : first) start_step(operation, step);
  for (const auto& [peer, messages] : operation.program().receives()) {
    auto incoming = peers_[peer].incoming.find(operation.id);
    if (incoming != peers_[peer].incoming.end()) grant(peers_[peer], incoming->second);
  }
}

void Group::ask_for_link(int peer) {
  Peer& other = peers_[peer];
  if (other.asked || peer == identity_.rank) return;
  other.asked = true;
  transport_->connect(peer);
}

// Links to both neighbours on the ring of ranks, whatever the operation: a rank that dies is thus noticed at once, and
// the news reaches all others along the ring.
void Group::watch_neighbours() {
  ask_for_link((identity_.rank + 1) % identity_.size);
  ask_for_link((identity_.rank + identity_.size - 1) % identity_.size);
}

void Group::link_up(int peer, std::unique_ptr<Link> link) {
  peers_[peer].asked = true;
  peers_[peer].channel.adopt(std::move(link));
  log_event(LogLevel::kInfo, "connected with rank " + std::to_string(peer));
  if (failure_) say_farewell();
}

// Steps ---------------------------------------------------------------------------------------------------------------

void Group::start_step(ActiveOperation& operation, std::uint32_t index) {
  switch (operation.program().step(index).kind) {
    case StepKind::kSend:
      return send_step(operation, index);
    case StepKind::kReceive:
      return open_message(operation, index);
    case StepKind::kReduce:
    case StepKind::kCopy:
    case StepKind::kSumRows:
    case StepKind::kCopyStrided:
      local_.emplace_back(&operation, index);
  }
}

void Group::finish_step(ActiveOperation& operation, std::uint32_t index) {
  const auto keep = operation.shared_from_this();  // the last step ends the operation
  --operation.steps_left;
  for (std::uint32_t next : operation.program().successors(index)) {
    if (--operation.waiting_for[next] > 0) continue;
    start_step(operation, next);
    const Step& step = operation.program().step(next);
    if (step.kind != StepKind::kReceive) continue;
    auto incoming = peers_[step.peer].incoming.find(operation.id);
    if (incoming != peers_[step.peer].incoming.end()) grant(peers_[step.peer], incoming->second);
  }
  if (operation.steps_left == 0) finish_act(operation);
}

void Group::finish_act(ActiveOperation& operation) {
  if (operation.acts_left == 0) return finish(operation, nullptr);
  --operation.acts_left;
  complete(operation);
  ++operation.id.sequence;
  operation.ask_for_next_act();
}

void Group::start_next_act(ActiveOperation& operation, Act act) {
  if (!active_.contains(&operation)) return;
  static_cast<Act&>(operation.request) = std::move(act);
  reserved_.erase(operation.id.sequence);
  collectives_[operation.id.sequence] = &operation;
  guard(-1, [&] { launch(operation); });
}

void Group::finish(ActiveOperation& operation, std::exception_ptr error) {
  const auto keep = operation.shared_from_this();
  if (active_.erase(&operation) == 0) return;
  if (logs(LogLevel::kDebug)) log_event(LogLevel::kDebug, "ends " + describe(operation));
  deadlines_.erase({operation.deadline, &operation});
  if (!operation.id.point_to_point) complete(operation);
  operation.handle->finish(std::move(error));
}

void Group::complete(const ActiveOperation& operation) {
  const std::uint64_t sequence = operation.id.sequence;
  collectives_.erase(sequence);
  completed_[sequence % completed_.size()] = {sequence, operation.request.signature};
}

bool Group::compute(std::size_t budget) {
  std::size_t computed = 0;
  while (!local_.empty() && computed < budget) {
    const auto [operation, index] = local_.front();
    local_.pop_front();
    const Step& step = operation->program().step(index);
    operation->compute(step);
    computed += step.bytes + 1;
    finish_step(*operation, index);
  }
  return computed > 0;
}

// Progress ------------------------------------------------------------------------------------------------------------

bool Group::progress() {
  bool moved = false;
  for (int peer = 0; peer < identity_.size; ++peer) {
    Channel& channel = peers_[peer].channel;
    if (!channel.ready()) continue;
    guard(peer, [&] {
      const std::size_t bytes = channel.read(kRound);
      bytes_received_.fetch_add(bytes, std::memory_order_relaxed);
      moved |= bytes > 0;
    });
    guard(peer, [&] {
      const std::size_t bytes = channel.write(kRound);
      bytes_sent_.fetch_add(bytes, std::memory_order_relaxed);
      moved |= bytes > 0;
    });
  }
  guard(-1, [&] { moved |= compute(kRound); });
  return moved;
}

bool Group::busy() const {
  if (!local_.empty()) return true;
  for (const Peer& peer : peers_)
    if (peer.channel.ready()) return true;
  return false;
}

void Group::sent(int peer, ActiveOperation* operation, std::uint32_t step) {
  auto outgoing = peers_[peer].outgoing.find(operation->id);
  if (--outgoing->second.left == 0) peers_[peer].outgoing.erase(outgoing);
  finish_step(*operation, step);
}

Traffic Group::traffic() const {
  return {bytes_sent_.load(std::memory_order_relaxed), bytes_received_.load(std::memory_order_relaxed),
          operations_.load(std::memory_order_relaxed)};
}

}  // namespace merak
