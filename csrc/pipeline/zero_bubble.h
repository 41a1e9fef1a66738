#pragma once
// Interleaved zero bubble (Qi et al., "Zero bubble pipeline parallelism", 2023, its ZB1P): nobody waits for the
// gradients of the weights, so they fill the bubbles.
//
// The backward is I, W. Order and warm-up are those of rounds.h, where a rank warms up by one forward longer than the
// next. Then one forward and one I take turns, and then the remaining I follow. Rank r lets r of its W wait: from its
// I number r on, each I is followed by the oldest W that is left. What waits at the end runs at the end.
//
//     rank 1 of 2, stage 1, 3 micro-batches    F0 I0  F1 I1 W0  F2 I2 W1   W2
//
// It keeps as many micro-batches' activations as interleaved 1F1B does, and of r more micro-batches what W needs.

#include "pipeline/schedule.h"

namespace merak::pipeline {

Schedule zero_bubble(int stages, int ranks, int microbatches);

}  // namespace merak::pipeline
