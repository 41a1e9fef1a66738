#include "pipeline/eager.h"

#include <stdexcept>

#include "pipeline/one_f_one_b.h"

namespace merak::pipeline {

Schedule eager(int stages, int microbatches) {
  check_sizes(stages, stages, microbatches);
  Schedule schedule = empty_schedule(loop_placement(stages, stages), stages, microbatches);
  for (int stage = 0; stage < stages; ++stage)
    schedule.ranks[stage] = take_turns(stage, 2 * (stages - stage) - 1, microbatches);
  return schedule;
}

Schedule with_delayed_weights(const Schedule& schedule) {
  if (has_communication(schedule))
    throw std::invalid_argument("delay the weights' gradients before communication is added");
  Schedule result = schedule;
  for (ActionList& actions : result.ranks) {
    ActionList split;
    for (const Action& action : actions) {
      split.push_back(action);
      if (action.kind != ActionKind::kBackward) continue;
      split.back().kind = ActionKind::kBackwardInput;
      split.push_back(action);
      split.back().kind = ActionKind::kBackwardWeight;
    }
    actions = std::move(split);
  }
  return result;
}

}  // namespace merak::pipeline
