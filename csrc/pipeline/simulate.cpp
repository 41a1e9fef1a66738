#include "pipeline/simulate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "pipeline/check.h"
#include "pipeline/communication.h"
#include "pipeline/links.h"
#include "pipeline/message_index.h"

namespace merak::pipeline {
namespace {

double seconds_of(ActionKind kind, const StageSeconds& stage) {
  switch (kind) {
    case ActionKind::kForward:
      return stage.forward;
    case ActionKind::kBackward:
      return stage.backward;
    case ActionKind::kBackwardInput:
      return stage.backward_input;
    case ActionKind::kBackwardWeight:
      return stage.backward_weight;
    case ActionKind::kRecompute:
      return stage.recompute;
    case ActionKind::kReduceGrad:
      return stage.reduce;
    default:
      return 0;
  }
}

void check_costs(const Schedule& schedule, const Costs& costs) {
  const auto expect = [](std::size_t count, std::size_t wanted, const std::string& what) {
    if (count != wanted)
      throw std::invalid_argument("costs of " + std::to_string(count) + " " + what + ", but there are " +
                                  std::to_string(wanted));
  };
  expect(costs.seconds.size(), schedule.rank_of_stage.size(), "stages");
  expect(costs.bytes.size(), schedule.rank_of_stage.size(), "stages");
  expect(costs.edges.size(), schedule.edges.size(), "edges");
  const auto check_number = [](double value) {
    if (!std::isfinite(value) || value < 0) throw std::invalid_argument("costs are finite numbers, and not negative");
  };
  for (const StageSeconds& s : costs.seconds)
    for (double value : {s.forward, s.backward, s.backward_input, s.backward_weight, s.recompute, s.reduce})
      check_number(value);
  for (const StageBytes& b : costs.bytes)
    for (double value : {b.fixed, b.activation, b.checkpoint}) check_number(value);
  for (const EdgeCost& e : costs.edges)
    for (double value : {e.value_s, e.gradient_s, e.latency_s, e.bytes}) check_number(value);
}

class Running {
 public:
  Running(const Schedule& schedule, const Costs& costs)
      : schedule_(schedule),
        costs_(costs),
        index_(schedule),
        links_(static_cast<int>(schedule.ranks.size()), costs.shared_links),
        state_(index_.count()),
        ranks_(schedule.ranks.size()) {
    for (const ActionList& actions : schedule.ranks) result_.actions.emplace_back(actions.size());
  }

  Simulation run() {
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank) push(0, kGoesOn, rank);
    while (!events_.empty()) {
      const auto [time, turn, what, of] = events_.top();
      events_.pop();
      now_ = time;
      result_.seconds = std::max(result_.seconds, time);
      if (what == kGoesOn) go_on(of);
      if (what == kLeavesWire)
        for (std::size_t message : links_.done(of)) begin(message);
      if (what == kArrives) arrive(of);
    }
    for (const RankState& rank : ranks_) result_.busy_s.push_back(rank.busy_s);
    return std::move(result_);
  }

 private:
  enum What { kLeavesWire, kArrives, kGoesOn };
  using Event = std::tuple<double, std::size_t, What, std::size_t>;  // when, its turn, what, of which message or rank

  struct MessageState {
    Message message;
    bool sent = false, posted = false, arrived = false;
    double sent_s = 0, start_s = 0;
    int waiting = -1;  // the rank that does
  };
  struct RankState {
    std::size_t next = 0;
    double busy_s = 0, reduced_s = 0;
    bool resumes = false;  // the action at `next` has begun
  };

  void push(double time, What what, std::size_t of) { events_.emplace(time, turns_++, what, of); }
  const EdgeCost& edge_cost(std::size_t message) const { return costs_.edges[message / (2 * schedule_.microbatches)]; }

  // Does the rank's actions until one takes time.
  void go_on(std::size_t rank) {
    RankState& state = ranks_[rank];
    const ActionList& actions = schedule_.ranks[rank];
    while (state.next < actions.size()) {
      ActionSpan& span = result_.actions[rank][state.next];
      if (!state.resumes) {
        span.start_s = now_;
        if (!start(rank, actions[state.next], span)) {
          state.resumes = true;
          return;
        }
      } else {
        span.end_s = now_;
      }
      state.resumes = false;
      ++state.next;
    }
  }

  // Whether the rank is done with the action at once; else it goes on by an event.
  bool start(std::size_t rank, const Action& action, ActionSpan& span) {
    span.end_s = now_;
    if (is_communication(action.kind)) return communicate(rank, action);
    const double seconds = seconds_of(action.kind, costs_.seconds[action.stage]);
    if (action.kind == ActionKind::kReduceGrad) {
      span.start_s = std::max(now_, ranks_[rank].reduced_s);
      span.end_s = ranks_[rank].reduced_s = span.start_s + seconds;
      result_.seconds = std::max(result_.seconds, span.end_s);
      if (costs_.blocking) push(span.end_s, kGoesOn, rank);
      return !costs_.blocking;
    }
    ranks_[rank].busy_s += seconds;
    push(now_ + seconds, kGoesOn, rank);
    return false;
  }

  bool communicate(std::size_t rank, const Action& action) {
    const Message message = message_of(action);
    const std::size_t number = index_(message);
    MessageState& state = state_[number];
    if (is_wait(action.kind)) {
      if (!state.arrived) state.waiting = static_cast<int>(rank);
      return state.arrived;
    }
    const bool buffered = costs_.buffered || costs_.blocking;
    if (is_send(action.kind)) state.sent = true, state.sent_s = now_, state.message = message;
    if (is_receive(action.kind)) state.posted = true;
    if (is_send(action.kind) ? buffered || state.posted : !buffered && state.sent) {
      const int from = schedule_.rank_of_stage[message.sender()], to = schedule_.rank_of_stage[message.receiver()];
      if (links_.ready(number, from, to)) begin(number);
    }
    if (!is_send(action.kind) || !costs_.blocking) return true;
    sender_of_.emplace_back(number, rank);
    return false;
  }

  void begin(std::size_t message) {
    const EdgeCost& cost = edge_cost(message);
    MessageState& state = state_[message];
    state.start_s = now_;
    const double end_s = now_ + (state.message.forward ? cost.value_s : cost.gradient_s);
    push(end_s, kLeavesWire, message);
    push(end_s + cost.latency_s, kArrives, message);
  }

  void arrive(std::size_t message) {
    MessageState& state = state_[message];
    state.arrived = true;
    result_.messages.push_back({state.message, state.sent_s, state.start_s, now_});
    if (state.waiting >= 0) go_on(state.waiting);
    const auto sender = std::find_if(sender_of_.begin(), sender_of_.end(),
                                     [&](const auto& blocked) { return blocked.first == message; });
    if (sender == sender_of_.end()) return;
    const std::size_t rank = sender->second;
    sender_of_.erase(sender);
    go_on(rank);
  }

  const Schedule& schedule_;
  const Costs& costs_;
  const MessageIndex index_;
  Links links_;
  std::vector<MessageState> state_;
  std::vector<RankState> ranks_;
  std::vector<std::pair<std::size_t, std::size_t>> sender_of_;  // blocked: (message, rank), at most one a rank
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::size_t turns_ = 0;
  double now_ = 0;
  Simulation result_;
};

}  // namespace

double Simulation::bubble(std::size_t rank) const { return seconds > 0 ? 1 - busy_s[rank] / seconds : 0; }

double Simulation::bubble() const {
  if (seconds == 0 || busy_s.empty()) return 0;
  return 1 - std::accumulate(busy_s.begin(), busy_s.end(), 0.0) / (seconds * static_cast<double>(busy_s.size()));
}

Simulation simulate(const Schedule& schedule, const Costs& costs) {
  expect_right(schedule);
  Schedule complete = has_communication(schedule) ? schedule : with_communication(schedule, schedule.edges);
  check_costs(complete, costs);
  Simulation simulation = Running(complete, costs).run();
  std::vector<double> message_bytes;
  for (const EdgeCost& edge : costs.edges) message_bytes.push_back(edge.bytes);
  simulation.memory = peak_memory(complete, costs.bytes, message_bytes);
  simulation.schedule = std::move(complete);
  return simulation;
}

}  // namespace merak::pipeline
