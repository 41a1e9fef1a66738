#include "pipeline/reduction.h"

#include <algorithm>

namespace merak::pipeline {

Schedule with_reduction(const Schedule& schedule) {
  Schedule result = schedule;
  std::vector<int> left(schedule.stages(), schedule.microbatches);
  for (ActionList& actions : result.ranks) {
    const bool reduces = std::any_of(actions.begin(), actions.end(),
                                     [](const Action& action) { return action.kind == ActionKind::kReduceGrad; });
    if (reduces) continue;
    ActionList longer, due;
    bool in_pair = false;
    for (const Action& action : actions) {
      if (!is_send(action.kind) && !in_pair) {
        longer.insert(longer.end(), due.begin(), due.end());
        due.clear();
      }
      longer.push_back(action);
      in_pair = action.overlaps_next;
      if (gives_weight_gradient(action.kind) && --left[action.stage] == 0)
        due.push_back({.kind = ActionKind::kReduceGrad, .stage = action.stage});
    }
    longer.insert(longer.end(), due.begin(), due.end());
    actions = std::move(longer);
  }
  return result;
}

}  // namespace merak::pipeline
