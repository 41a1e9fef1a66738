#include "pipeline/recompute.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace merak::pipeline {

Schedule with_recompute(const Schedule& schedule, const std::vector<bool>& stages) {
  if (stages.size() != schedule.rank_of_stage.size())
    throw std::invalid_argument("recompute is said of " + std::to_string(stages.size()) + " stages, but there are " +
                                std::to_string(schedule.stages()));
  Schedule result = schedule;
  for (ActionList& actions : result.ranks) {
    ActionList longer;
    for (const Action& action : actions) {
      if (action.kind == ActionKind::kRecompute) throw std::invalid_argument("the schedule recomputes already");
      if (gives_input_gradient(action.kind) && stages[action.stage])
        longer.push_back({.kind = ActionKind::kRecompute, .stage = action.stage, .microbatch = action.microbatch});
      longer.push_back(action);
    }
    actions = std::move(longer);
  }
  return result;
}

Schedule pre_recompute(const Schedule& schedule) {
  Schedule result = schedule;
  for (ActionList& actions : result.ranks)
    for (auto action = actions.begin(); action != actions.end(); ++action) {
      if (action->kind != ActionKind::kRecompute) continue;
      auto first_wait = action;
      while (first_wait != actions.begin() && is_wait(std::prev(first_wait)->kind)) --first_wait;
      std::rotate(first_wait, action, std::next(action));
    }
  return result;
}

Schedule last_without_recompute(const Schedule& schedule) {
  Schedule result = schedule;
  for (ActionList& actions : result.ranks)
    std::erase_if(actions, [&](const Action& action) {
      return action.kind == ActionKind::kRecompute && action.stage == schedule.stages() - 1;
    });
  return result;
}

}  // namespace merak::pipeline
