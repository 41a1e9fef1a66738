#include "pipeline/zero_bubble.h"

#include "pipeline/rounds.h"

namespace merak::pipeline {
namespace {

Action as(ActionKind kind, Action action) {
  action.kind = kind;
  return action;
}

}  // namespace

Schedule zero_bubble(int stages, int ranks, int microbatches) {
  check_sizes(stages, ranks, microbatches);
  Schedule schedule = empty_schedule(loop_placement(stages, ranks), ranks, microbatches);
  for (int rank = 0; rank < ranks; ++rank) {
    const RoundOrder order = in_rounds(rank, stages, ranks, microbatches, 1);
    const std::size_t count = order.forwards.size(), warm_up = order.warm_up, may_wait = rank;
    ActionList& actions = schedule.ranks[rank];
    std::size_t weights = 0;
    for (std::size_t step = 0; step < count + warm_up; ++step) {
      if (step < count) actions.push_back(order.forwards[step]);
      if (step < warm_up) continue;
      const std::size_t inputs = step - warm_up;
      actions.push_back(as(ActionKind::kBackwardInput, order.backwards[inputs]));
      if (inputs >= may_wait) actions.push_back(as(ActionKind::kBackwardWeight, order.backwards[weights++]));
    }
    while (weights < count) actions.push_back(as(ActionKind::kBackwardWeight, order.backwards[weights++]));
  }
  return schedule;
}

}  // namespace merak::pipeline
