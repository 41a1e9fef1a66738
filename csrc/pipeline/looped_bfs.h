#pragma once
// Looped breadth-first (Lamy-Poirier, 2022): stages go round the ranks several times, and a rank finishes one of its
// stages for all micro-batches before it begins the next.
//
//     rank 0 of 2, stages 0 and 2   0F0 0F1 0F2 2F0 2F1 2F2   2B2 2B1 2B0 0B2 0B1 0B0
//
// Its bubble is that of shorter stages, and the weights of one stage are used in one go, which suits sharded ones. It
// keeps the activations of all micro-batches; the backward begins with those that were made last.

#include "pipeline/schedule.h"

namespace merak::pipeline {

Schedule looped_bfs(int stages, int ranks, int microbatches);

}  // namespace merak::pipeline
