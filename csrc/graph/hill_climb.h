#pragma once
// A good cut where ranks have several stages, by hill climbing from given cuts.
//
// Stages of a rank share its memory and its time, so that stages cannot be chosen one after the other, as exact_cut.h
// does. A *move* shifts a run of 1, 2, 4, ... neighbouring boundaries by the same number of points, 1, 2, 4, ... in
// either direction. A move is kept if the cut gets better: fewer bytes missing, then less time, then fewer bytes
// crossing. All moves are tried in turn until none helps, or for kRounds rounds; the best end of all starts is taken.
// What comes out is no worse than any start, and in small cases mostly the best there is; it is not proven to be.

#include <vector>

#include "graph/assess.h"

namespace merak {

// `forced`: points that have to be boundaries. `starts`: cuts that have them, at least one.
Cut hill_climb(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
               const std::vector<int>& forced, const std::vector<std::vector<int>>& starts);

}  // namespace merak
