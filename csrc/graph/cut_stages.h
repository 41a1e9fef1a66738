#pragma once
// The cut into stages that makes a step take the least time, with what each stage recomputes: all of room graph's
// C++ behind one call.
//
// One stage a rank: exact (exact_cut.h). Several: hill climbing (hill_climb.h), from the exact cut of S ranks with a
// v-th of the memory each, from that without a limit of memory, and from the uniform cuts. Where all boundaries are
// forced nothing is left to search. Where nothing fits, the cut is that which misses least.

#include <vector>

#include "graph/assess.h"
#include "graph/shortfall.h"

namespace merak {

// `forced`: nodes before which a boundary has to be, ascending. Throws std::invalid_argument if a boundary is not
// allowed there, or if there are fewer places for boundaries than stages need.
Cut cut_stages(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
               const std::vector<int>& forced);

// For a cut that does not fit; the same arguments.
Remedies remedies_for(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
                      const std::vector<int>& forced);

}  // namespace merak
