#include "pipeline/communication.h"

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
  return result;
}

Schedule with_waits(const Schedule& schedule) {
  Schedule result = schedule;
  const Communicating communicating(schedule, 0);
  for (ActionList& actions : result.ranks) actions = communicating.with_waits(actions);
  return result;
}

}  // namespace merak::pipeline
