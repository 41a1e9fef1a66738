#pragma once
// In which order a rank with several stages takes its micro-batches: what interleaved.h and zero_bubble.h share.
//
// Stages go round the ranks: of p ranks, rank r has the stages r, r + p, r + 2 p, ... The micro-batches are cut into
// *rounds* of about p. A rank takes a round's micro-batches through its first stage, then through its second, and so
// on; then comes the next round. So while a micro-batch goes once round the ranks, a rank has others to work on.
// Backwards go through the stages in the opposite direction:
//
//     2 ranks, 4 stages, 4 micro-batches; of rank 0 (stages 0 and 2):
//     forwards   0F0 0F1 2F0 2F1 | 0F2 0F3 2F2 2F3       backwards   2B0 2B1 0B0 0B1 | 2B2 2B3 0B2 0B3
//
// There are m / p rounds, rounded down, but at least one. Where m is no multiple of that, the first rounds are one
// micro-batch longer than the last ones. The *warm-up*, the forwards before the first backward, must reach the first
// micro-batch of the last stage in every round, so it goes by the longest.

#include "pipeline/schedule.h"

namespace merak::pipeline {

struct RoundOrder {
  ActionList forwards, backwards;  // kinds F and B
  int warm_up = 0;
};

// `step`: by how many forwards a rank warms up longer than the next one.
RoundOrder in_rounds(int rank, int stages, int ranks, int microbatches, int step);

}  // namespace merak::pipeline
