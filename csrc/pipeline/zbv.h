#pragma once
// ZBV (Qi et al., 2023, section 6): zero bubble with two stages a rank that go down the ranks and up again, so that a
// micro-batch's loss is computed on the rank where it began, and its backward starts there at once.
//
// Of p ranks, rank r has the *down* stage r and the *up* stage 2 p - 1 - r. Where F, I and W take the same time there
// is no bubble but at the ends, and the activations kept are those of 1F1B. In terms of the next micro-batch of each
// stage:
//
//     warm-up     2 (p - r) - 1 times  down F
//                 r times              up F, down F
//                 p - r times          up F, up I, up W
//     steady      down F, down I, down W, up F, up I, up W;  without down F once all have begun
//     cool-down   r times              down I, up I
//                 p - r times          down I, down W
//                 then the up W that are left, then the down W
//
// The pattern needs 2 p - 1 micro-batches. Of fewer, the schedule is that of 2 p - 1 without those that do not exist.

#include "pipeline/schedule.h"

namespace merak::pipeline {

// Two stages a rank.
Schedule zbv(int ranks, int microbatches);

}  // namespace merak::pipeline
