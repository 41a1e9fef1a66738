#pragma once
// Stages on shapes of devices, so that a step takes the least time: the boundaries, the shape of each stage and what it
// recomputes, for every number of stages. search_model.h says what is given and what a step takes.
//
// This is the inter-operator part of Alpa (Zheng et al., OSDI 2022), with recomputation as part of the search, memory
// that depends on the stage's place, and the devices in an order. Trials of a limit on the period, chosen by
// period_limits.h, each find the least sums of passes within it for all numbers of stages at once (least_passes.h).

#include <vector>

#include "planner/found_stages.h"
#include "planner/search_model.h"

namespace merak::planner {

struct SearchResult {
  std::vector<FoundStages> found;  // the best for each number of stages that fits, in order of their steps
  double bound_s = 0;              // no arrangement with any number of stages takes less; infinity if none fits
  int trials = 0;
};

// With a tolerance of 0 each is the best for its number of stages, but for a rounding of 1e-9; otherwise its step is no
// longer than the best one's / (1 - tolerance). Throws std::invalid_argument as check_search() does.
SearchResult search_stages(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned = {});

}  // namespace merak::planner
