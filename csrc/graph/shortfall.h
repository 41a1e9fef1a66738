#pragma once
// Where no cut fits: that which misses least, and what would fit.
//
// The cut in which the worst rank misses the fewest bytes follows by dynamic programming from the back, as in
// exact_cut.h, with a maximum in place of the sum. Whether any cut fits needs less: the points that stage s can begin
// at are those that the stages before it can end at, and from each of those it can end anywhere up to its furthest.

#include <functional>
#include <vector>

#include "graph/stage_options.h"

namespace merak {

// Points, as in Cut. Both need one stage a rank and no more stages than segments.
std::vector<int> least_missing_cut(const StageOptions& options);
bool any_cut_fits(const StageOptions& options);

struct Remedies {
  int in_flight = 0;       // so many micro-batches in flight at each stage would do; 0: not even one
  int stages = 0;          // so many stages would, one on each rank; 0: none that was tried
  bool recompute = false;  // recomputing as needed would, where it was limited
};

// `fits`: whether any cut does. More stages are tried where each has a rank of its own with the same memory: up to
// kMostTimes as many, with as many micro-batches in flight as now, counted from the last stage, and one more for each
// further stage in front.
Remedies remedies(const PipelineModel& model, const Recompute& recompute, int segments,
                  const std::function<bool(const PipelineModel&, const Recompute&)>& fits);

}  // namespace merak
