#include "pipeline/looped_bfs.h"

namespace merak::pipeline {

Schedule looped_bfs(int stages, int ranks, int microbatches) {
  check_sizes(stages, ranks, microbatches);
  Schedule schedule = empty_schedule(loop_placement(stages, ranks), ranks, microbatches);
  for (int rank = 0; rank < ranks; ++rank) {
    ActionList& actions = schedule.ranks[rank];
    for (int stage = rank; stage < stages; stage += ranks)
      for (int microbatch = 0; microbatch < microbatches; ++microbatch)
        actions.push_back({.kind = ActionKind::kForward, .stage = stage, .microbatch = microbatch});
    for (std::size_t forwards = actions.size(); forwards-- > 0;) {
      actions.push_back(actions[forwards]);
      actions.back().kind = ActionKind::kBackward;
    }
  }
  return schedule;
}

}  // namespace merak::pipeline
