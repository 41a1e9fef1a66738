#pragma once
// What other systems do, as a baseline: stages of equal size, and one share to recompute for all of them.
//
// Boundary s lies at the allowed point whose weight before it, in nodes or in bytes of parameters, is nearest to s/S of
// all. The share is the least that fits on every rank; it is found by bisection, since memory falls as the share grows.

#include <vector>

#include "graph/assess.h"

namespace merak {

enum class Weight { kNodes, kParameters };

struct UniformCut {
  Cut cut;
  double share = 0;  // of a stage's forward seconds; 1 if nothing less, or nothing, fits
};

// Points, as in Cut. Needs no more stages than segments.
std::vector<int> uniform_points(const IntervalCosts& costs, int stages, Weight weight);

UniformCut uniform_recompute(const IntervalCosts& costs, const PipelineModel& model, const std::vector<int>& points);

}  // namespace merak
