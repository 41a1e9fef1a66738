#include "pipeline/first_microbatches.h"

#include <stdexcept>
#include <string>

namespace merak::pipeline {

Schedule first_microbatches(const Schedule& schedule, int microbatches) {
  if (microbatches < 1 || microbatches > schedule.microbatches)
    throw std::invalid_argument("the schedule is for " + std::to_string(schedule.microbatches) +
                                " micro-batches, and cannot run " + std::to_string(microbatches));
  Schedule result = schedule;
  result.microbatches = microbatches;
  for (ActionList& actions : result.ranks) {
    ActionList left;
    for (const Action& action : actions) {
      if (action.microbatch < microbatches) {
        left.push_back(action);
      } else if (!left.empty()) {
        left.back().overlaps_next = false;  // the other of a pair is gone
      }
    }
    if (!left.empty()) left.back().overlaps_next = false;
    actions = std::move(left);
  }
  return result;
}

}  // namespace merak::pipeline
