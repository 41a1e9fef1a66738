#pragma once
// What a given cut takes: the seconds and bytes of each stage and rank, and of the step, as pipeline_model.h and
// stage_memory.h have them.

#include <vector>

#include "graph/interval_costs.h"
#include "graph/pipeline_model.h"
#include "graph/stage_memory.h"

namespace merak {

struct StageCost {
  int rank = 0;
  int first = 0, end = 0;  // nodes
  int recomputed = 0;      // nodes of its prefix
  double forward_s = 0, backward_s = 0, recompute_s = 0;
  double receive_s = 0, return_s = 0;
  double parameter_bytes = 0, input_bytes = 0, saved_bytes = 0, kept_bytes = 0, memory_bytes = 0;
  double crossing_bytes = 0;  // what it receives and returns

  double work_s() const { return forward_s + backward_s + recompute_s; }
  double pass_s() const { return work_s() + receive_s + return_s; }
};

struct Cut {
  std::vector<int> points;  // of IntervalCosts: where stages 0 to S - 1 begin, and the end
  std::vector<StageCost> stages;
  std::vector<double> memory_bytes;   // by rank
  std::vector<double> missing_bytes;  // by rank: above its budget
  std::vector<double> period_s;       // by rank
  double step_s = 0;
  double crossing_bytes = 0;

  bool fits() const;
  double all_missing_bytes() const;
};

Cut assess(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
           const std::vector<int>& points);

// Whether one cut is better: it misses fewer bytes, takes less time, or the same and fewer bytes cross.
bool is_better(const Cut& one, const Cut& other);

}  // namespace merak
