#include "pipeline/interleaved.h"

#include "pipeline/rounds.h"

namespace merak::pipeline {

Schedule interleaved(int stages, int ranks, int microbatches) {
  check_sizes(stages, ranks, microbatches);
  Schedule schedule = empty_schedule(loop_placement(stages, ranks), ranks, microbatches);
  for (int rank = 0; rank < ranks; ++rank) {
    const RoundOrder order = in_rounds(rank, stages, ranks, microbatches, 2);
    const std::size_t count = order.forwards.size();
    ActionList& actions = schedule.ranks[rank];
    for (std::size_t step = 0; step < count + order.warm_up; ++step) {
      if (step < count) actions.push_back(order.forwards[step]);
      if (step >= static_cast<std::size_t>(order.warm_up)) actions.push_back(order.backwards[step - order.warm_up]);
    }
  }
  return schedule;
}

}  // namespace merak::pipeline
