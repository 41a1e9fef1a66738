#include "pipeline/gpipe.h"

namespace merak::pipeline {

Schedule gpipe(int stages, int microbatches) {
  check_sizes(stages, stages, microbatches);
  Schedule schedule = empty_schedule(loop_placement(stages, stages), stages, microbatches);
  for (int stage = 0; stage < stages; ++stage)
    for (ActionKind kind : {ActionKind::kForward, ActionKind::kBackward})
      for (int microbatch = 0; microbatch < microbatches; ++microbatch)
        schedule.ranks[stage].push_back({.kind = kind, .stage = stage, .microbatch = microbatch});
  return schedule;
}

}  // namespace merak::pipeline
