#include "pipeline/one_f_one_b.h"

#include <algorithm>

namespace merak::pipeline {

ActionList take_turns(int stage, int warm_up, int microbatches) {
  ActionList actions;
  int forwards = 0, backwards = 0;
  const auto forward = [&] {
    actions.push_back({.kind = ActionKind::kForward, .stage = stage, .microbatch = forwards++});
  };
  while (forwards < std::min(warm_up, microbatches)) forward();
  while (backwards < microbatches) {
    actions.push_back({.kind = ActionKind::kBackward, .stage = stage, .microbatch = backwards++});
    if (forwards < microbatches) forward();
  }
  return actions;
}

Schedule one_f_one_b(int stages, int microbatches) {
  check_sizes(stages, stages, microbatches);
  Schedule schedule = empty_schedule(loop_placement(stages, stages), stages, microbatches);
  for (int stage = 0; stage < stages; ++stage) schedule.ranks[stage] = take_turns(stage, stages - stage, microbatches);
  return schedule;
}

}  // namespace merak::pipeline
