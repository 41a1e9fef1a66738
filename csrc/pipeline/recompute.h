#pragma once
// Recompute: a stage keeps only its inputs at the forward, and runs the forward again before the backward (R).
//
// `with_recompute` puts R directly before B or I. An R there belongs to its backward: both come after the wait for the
// gradient, as they do where a framework recomputes inside of the backward.
//
//     WAIT_B3 R3 B3     with_recompute
//     R3 WAIT_B3 B3     pre_recompute
//
// Two rules of Merak (Lai et al., 2022) gain time at no memory, since one micro-batch's activations are whole at a time
// in any case. R needs nothing from other ranks, so it may run while the gradient is on its way: `pre_recompute`. And
// the last stage's backward follows its forward at once, so its activations may as well be kept:
// `last_without_recompute`. Merak's third rule is in shifted.h.

#include <vector>

#include "pipeline/schedule.h"

namespace merak::pipeline {

// Of each stage whether it recomputes. Throws std::invalid_argument for a schedule that recomputes already, or for
// another number of stages.
Schedule with_recompute(const Schedule& schedule, const std::vector<bool>& stages);

// R goes before the waits that stand directly before it. Without communication there are none, and nothing changes.
Schedule pre_recompute(const Schedule& schedule);

// Drops the R of the last stage.
Schedule last_without_recompute(const Schedule& schedule);

}  // namespace merak::pipeline
