#pragma once
// GPipe (Huang et al., 2019): every rank runs all forwards, then all backwards.
//
//     rank 0   F0 F1 F2 F3 .. .. B0 B1 B2 B3
//     rank 1   .. F0 F1 F2 F3 B0 B1 B2 B3 ..
//
// It is the simplest, and it keeps the activations of all micro-batches at once.

#include "pipeline/schedule.h"

namespace merak::pipeline {

// One stage a rank.
Schedule gpipe(int stages, int microbatches);

}  // namespace merak::pipeline
