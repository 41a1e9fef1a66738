#pragma once
// Where nothing fits: the stages that miss least, and what would fit.
//
// The arrangement in which the worst stage misses the fewest bytes follows by dynamic programming from the back, as in
// least_passes.h, with the maximum of missing bytes in place of the sum of passes, and everything recomputed that may
// be. Of numbers of stages that miss as little, the least is taken.

#include "planner/found_stages.h"

namespace merak::planner {

// Throws std::invalid_argument as check_search() does, and if no stages of these shapes take all devices at all.
FoundStages least_missing(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned = {});

// What would do, of the rest as it is.
struct SearchRemedies {
  bool recompute = false;  // recomputing as needed, where it was not
  int in_flight = 0;       // at most so many micro-batches in flight at each stage; 0: not even one
  int stages = 0;          // so many stages, where another number was given; 0: none up to the most allowed
};

SearchRemedies search_remedies(const std::vector<StageShape>& shapes, const SearchModel& model,
                               const Pinned& pinned = {});

}  // namespace merak::planner
