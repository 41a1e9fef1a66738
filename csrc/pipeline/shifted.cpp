#include "pipeline/shifted.h"

#include <algorithm>

#include "pipeline/one_f_one_b.h"

namespace merak::pipeline {

bool can_shift(int stages, int microbatches) { return stages >= 2 && microbatches >= 4 && microbatches >= stages; }

Schedule shifted(int stages, int microbatches) {
  Schedule schedule = one_f_one_b(stages, microbatches);
  if (!can_shift(stages, microbatches)) return schedule;
  ActionList& actions = schedule.ranks[stages - 2];  // F0 F1 B0 F2 B1 ...
  std::swap(actions[2], actions[3]);
  return schedule;
}

}  // namespace merak::pipeline
