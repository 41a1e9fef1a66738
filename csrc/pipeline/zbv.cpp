#include "pipeline/zbv.h"

#include <algorithm>

namespace merak::pipeline {
namespace {

constexpr auto kF = ActionKind::kForward, kI = ActionKind::kBackwardInput, kW = ActionKind::kBackwardWeight;

// One of a rank's two stages: it appends its next action of a kind to the rank's list.
class HalfOfV {
 public:
  HalfOfV(int stage, int microbatches, ActionList& actions)
      : stage_(stage), microbatches_(microbatches), actions_(actions) {}

  void next(std::initializer_list<ActionKind> kinds) {
    for (ActionKind kind : kinds) {
      const int microbatch = begun_[static_cast<std::size_t>(kind)]++;
      if (microbatch < microbatches_) actions_.push_back({.kind = kind, .stage = stage_, .microbatch = microbatch});
    }
  }
  int begun(ActionKind kind) const { return begun_[static_cast<std::size_t>(kind)]; }
  void remaining_weights() {
    while (begun(kW) < begun(kI)) next({kW});
  }

 private:
  const int stage_, microbatches_;
  ActionList& actions_;
  int begun_[kActionKinds] = {};
};

}  // namespace

Schedule zbv(int ranks, int microbatches) {
  check_sizes(2 * ranks, ranks, microbatches);
  Schedule schedule = empty_schedule(v_placement(ranks), ranks, microbatches);
  const int pattern = std::max(2 * ranks - 1, microbatches);
  for (int rank = 0; rank < ranks; ++rank) {
    HalfOfV down(rank, microbatches, schedule.ranks[rank]),
        up(2 * ranks - 1 - rank, microbatches, schedule.ranks[rank]);
    for (int i = 0; i < 2 * (ranks - rank) - 1; ++i) down.next({kF});
    for (int i = 0; i < rank; ++i) up.next({kF}), down.next({kF});
    for (int i = 0; i < ranks - rank; ++i) up.next({kF, kI, kW});
    while (up.begun(kF) < pattern) {
      if (down.begun(kF) < pattern) down.next({kF});
      down.next({kI, kW});
      up.next({kF, kI, kW});
    }
    for (int i = 0; i < rank; ++i) down.next({kI}), up.next({kI});
    for (int i = 0; i < ranks - rank; ++i) down.next({kI, kW});
    up.remaining_weights();
    down.remaining_weights();
  }
  return schedule;
}

}  // namespace merak::pipeline
