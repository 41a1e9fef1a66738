#pragma once
// Stages on their devices, with what they take.

#include <vector>

#include "graph/assess.h"
#include "planner/search_model.h"

namespace merak::planner {

struct FoundStage {
  int shape = 0;
  int first_device = 0, devices = 1;
  StageCost cost;                   // of one of its devices; `rank` is the stage
  double pass_s = 0, period_s = 0;  // with the share of what happens once
  double once_s = 0;                // a step
  double missing_bytes = 0;         // above its budget
};

struct FoundStages {
  std::vector<int> points;  // where they begin, and the end
  std::vector<FoundStage> stages;
  double step_s = 0, bottleneck_s = 0;
  double bound_s = 0;  // no arrangement with as many stages takes less
  double crossing_bytes = 0;
};

// Those stages, from first to last; without bound_s. Needs at most model.max_stages of them.
FoundStages place(const std::vector<StageShape>& shapes, const SearchModel& model, const std::vector<int>& points,
                  const std::vector<int>& shape_of_stage);

}  // namespace merak::planner
