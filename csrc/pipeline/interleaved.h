#pragma once
// Interleaved 1F1B (Narayanan et al., 2021): 1F1B with v stages a rank, which makes the bubble v times shorter and
// sends v times as many messages.
//
// Order and warm-up are those of rounds.h, where a rank warms up by two forwards longer than the next: one for the way
// of the forward, one for that of the gradient. After the warm-up, one forward and one backward take turns.
//
//     rank 0 of 2, stages 0 and 2, 4 micro-batches
//     0F0 0F1 2F0 2F1   0F2 2B0  0F3 2B1  2F2 0B0  2F3 0B1   2B2 2B3 0B2 0B3          warm-up (2 - 1) * 2 + 2 * 1 = 4

#include "pipeline/schedule.h"

namespace merak::pipeline {

Schedule interleaved(int stages, int ranks, int microbatches);

}  // namespace merak::pipeline
