#pragma once
// 1F1B (Narayanan et al., 2019; DAPPLE's, and PipeDream's with flush): as GPipe, but a backward runs as soon as it can.
//
// Of p stages, stage s *warms up* with p - s forwards, which is how many it must start before the first gradient comes
// back. Then one backward and one forward take turns, until no forward is left; the other backwards follow.
//
//     rank 0   F0 F1 F2 .. .. .. B0 F3 B1 .. B2 .. B3          p - s = 3
//     rank 1   .. F0 F1 .. F2 B0 ...
//     rank 2   .. .. F0 B0 F1 B1 ...                           p - s = 1
//
// It takes as long as GPipe, and keeps the activations of p - s micro-batches, not of all. With fewer micro-batches
// than stages it warms up with all there are.

#include "pipeline/schedule.h"

namespace merak::pipeline {

// One stage a rank.
Schedule one_f_one_b(int stages, int microbatches);

// The list of a stage that runs so many forwards before its first backward.
ActionList take_turns(int stage, int warm_up, int microbatches);

}  // namespace merak::pipeline
