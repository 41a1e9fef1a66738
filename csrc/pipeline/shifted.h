#pragma once
// The shifted critical path (Merak; Lai et al., 2022): 1F1B with recompute, whose recomputes are taken off the path
// that decides how long a step takes.
//
// With F and R of one unit and B of two, 1F1B with recompute everywhere takes (m + p - 1) * 4 units of p stages and m
// micro-batches. Three rules save (p + 2) units:
//   1. R does not wait for the gradient (pre_recompute of recompute.h): p - 1, in the cool-down, where each stage would
//      otherwise add its R to the way of the last gradient.
//   2. The last stage does not recompute (last_without_recompute).
//   3. The *shift*: the stage before the last warms up with three forwards, not two, and has its first two backwards
//      one after the other. While the last stage is at F, B, F, B, which is shorter than the others' F, R, B by an R,
//      it gets its inputs earlier, and the stage before has an R less on the path.
//
//     1F1B     stage p-2   F0 F1    R0 B0 F2 R1 B1 F3 R2 B2 F4 ...
//     shifted  stage p-2   F0 F1 F2 R0 B0    R1 B1 F3 R2 B2 F4 ...
//
// The shift needs at least 4 micro-batches, and as many as there are stages; else rules 1 and 2 stand alone. It keeps
// one more micro-batch's inputs on one stage.

#include "pipeline/schedule.h"

namespace merak::pipeline {

// Whether rule 3 applies.
bool can_shift(int stages, int microbatches);

// The compute order of 1F1B with rule 3, if it applies. One stage a rank. Rules 1 and 2 are passes.
Schedule shifted(int stages, int microbatches);

}  // namespace merak::pipeline
