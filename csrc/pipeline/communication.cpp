#include "pipeline/communication.h"

#include <map>
#include <stdexcept>
#include <utility>

#include "pipeline/message_index.h"

namespace merak::pipeline {
namespace {

// What runs between two waits: an action, or a pair that may overlap, or an R and its backward.
struct Unit {
  ActionList actions;
  std::vector<Message> needs, gives;
};

class Communicating {
 public:
  Communicating(const Schedule& schedule, std::size_t ahead) : schedule_(schedule), edges_(schedule), ahead_(ahead) {}

  ActionList of(const ActionList& actions) const {
    const std::vector<Unit> units = in_units(actions);
    ActionList result;
    std::size_t received = 0;
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      for (; received < units.size() && received <= unit + ahead_; ++received) add(result, units[received].needs, true);
      add(result, units[unit].needs, false);
      result.insert(result.end(), units[unit].actions.begin(), units[unit].actions.end());
      for (const Message& message : units[unit].gives)
        result.push_back(action_of(message.forward ? ActionKind::kSendForward : ActionKind::kSendBackward, message));
    }
    return result;
  }

  ActionList with_waits(const ActionList& actions) const {
    ActionList result;
    for (const Unit& unit : in_units(actions)) {
      add(result, unit.needs, false);
      result.insert(result.end(), unit.actions.begin(), unit.actions.end());
    }
    return result;
  }

 private:
  std::vector<Unit> in_units(const ActionList& actions) const {
    std::vector<Unit> units;
    bool joined = false;
    for (std::size_t at = 0; at < actions.size(); ++at) {
      const Action& action = actions[at];
      if (!joined) units.emplace_back();
      units.back().actions.push_back(action);
      collect(action, units.back());
      joined = action.overlaps_next || (at + 1 < actions.size() && recomputes_for(action, actions[at + 1]));
    }
    return units;
  }

  static bool recomputes_for(const Action& action, const Action& next) {
    return action.kind == ActionKind::kRecompute && gives_input_gradient(next.kind) && next.stage == action.stage &&
           next.microbatch == action.microbatch;
  }

  bool crosses(const Message& message) const {
    return schedule_.rank_of_stage[message.producer] != schedule_.rank_of_stage[message.consumer];
  }

  void collect(const Action& action, Unit& unit) const {
    for (const Message& message : needs(action, edges_))
      if (crosses(message)) unit.needs.push_back(message);
    for (const Message& message : gives(action, edges_))
      if (crosses(message)) unit.gives.push_back(message);
  }

  static void add(ActionList& result, const std::vector<Message>& messages, bool receive) {
    for (const Message& message : messages) {
      const auto forward = receive ? ActionKind::kReceiveForward : ActionKind::kWaitForward;
      const auto backward = receive ? ActionKind::kReceiveBackward : ActionKind::kWaitBackward;
      result.push_back(action_of(message.forward ? forward : backward, message));
    }
  }

  const Schedule& schedule_;
  const EdgesByStage edges_;
  const std::size_t ahead_;
};

using Route = std::pair<int, int>;  // ranks: sender, receiver

Route route_of(const Message& message, const Schedule& schedule) {
  return {schedule.rank_of_stage[message.sender()], schedule.rank_of_stage[message.receiver()]};
}

// What each rank sends to each other one, in order.
class Sent {
 public:
  explicit Sent(const Schedule& schedule) : schedule_(schedule), index_(schedule), position_(index_.count(), kNever) {
    for (const ActionList& actions : schedule.ranks)
      for (const Action& action : actions) {
        if (!is_send(action.kind)) continue;
        const Message message = message_of(action);
        std::vector<Message>& route = routes_[route_of(message, schedule)];
        position_[index_(message)] = route.size();
        route.push_back(message);
      }
  }

  static constexpr std::size_t kNever = MessageIndex::kNone;
  const std::vector<Message>& of(Route route) const { return routes_.at(route); }
  Route route(const Message& message) const { return route_of(message, schedule_); }
  std::size_t position(const Message& message) const { return position_[index_(message)]; }

 private:
  const Schedule& schedule_;
  const MessageIndex index_;
  std::vector<std::size_t> position_;  // of each message in its route
  std::map<Route, std::vector<Message>> routes_;
};

// Where a receive is posted, those of all that its sender sends before are posted first.
ActionList receiving_as_sent(const ActionList& actions, const Sent& sent) {
  ActionList result;
  std::map<Route, std::size_t> posted;
  for (const Action& action : actions) {
    const std::size_t position = is_receive(action.kind) ? sent.position(message_of(action)) : Sent::kNever;
    if (position == Sent::kNever) {
      result.push_back(action);
      continue;
    }
    const Route route = sent.route(message_of(action));
    for (std::size_t& next = posted[route]; next <= position; ++next) {
      const Message& due = sent.of(route)[next];
      result.push_back(action_of(due.forward ? ActionKind::kReceiveForward : ActionKind::kReceiveBackward, due));
    }
  }
  return result;
}

}  // namespace

Schedule with_communication(const Schedule& schedule, std::vector<Edge> edges, int receives_ahead) {
  if (has_communication(schedule)) throw std::invalid_argument("the schedule communicates already");
  if (receives_ahead < 0)
    throw std::invalid_argument("receives ahead: " + std::to_string(receives_ahead) + " is below 0");
  check_bounds(schedule);
  Schedule result = schedule;
  result.edges = checked_edges(std::move(edges), schedule.stages());
  const Communicating communicating(result, receives_ahead);
  for (std::size_t rank = 0; rank < schedule.ranks.size(); ++rank)
    result.ranks[rank] = communicating.of(schedule.ranks[rank]);
  const Sent sent(result);
  for (ActionList& actions : result.ranks) actions = receiving_as_sent(actions, sent);
  return result;
}

bool receives_as_sent(const Schedule& schedule) {
  std::map<Route, std::vector<Message>> sent, received;
  for (const ActionList& actions : schedule.ranks)
    for (const Action& action : actions) {
      if (!is_send(action.kind) && !is_receive(action.kind)) continue;
      const Message message = message_of(action);
      (is_send(action.kind) ? sent : received)[route_of(message, schedule)].push_back(message);
    }
  return sent == received;
}

Schedule with_waits(const Schedule& schedule) {
  Schedule result = schedule;
  const Communicating communicating(schedule, 0);
  for (ActionList& actions : result.ranks) actions = communicating.with_waits(actions);
  return result;
}

}  // namespace merak::pipeline
