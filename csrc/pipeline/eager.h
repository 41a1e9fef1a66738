#pragma once
// Eager 1F1B (Zhuang et al., "On optimizing the communication of model parallelism", 2023): 1F1B that runs further
// ahead, so that messages travel while the devices compute.
//
// Under 1F1B a stage needs the gradient of a micro-batch exactly when the next stage has just computed it: every
// boundary's time is waited for. Here stage s of p warms up with 2 (p - s) - 1 forwards, not p - s, so that between a
// forward and its backward lies one more forward and backward for each boundary on the way there and back. A boundary
// whose message takes c is hidden if 2 c <= F + B.
//
//     rank 0   F0 F1 F2 B0 F3 B1 F4 B2 ...                     2 (2 - 0) - 1 = 3
//     rank 1   F0 B0 F1 B1 F2 B2 ...                           1
//
// It keeps p - s - 1 more micro-batches' activations on stage s. For more room the gradients of the weights can be
// *delayed*: `with_delayed_weights` splits B into I and W, so that a gradient leaves for the stage before W begins, and
// W hides it: 2 c <= F + B + W.

#include "pipeline/schedule.h"

namespace merak::pipeline {

// One stage a rank.
Schedule eager(int stages, int microbatches);

// Every B as I, W. Needs a schedule without communication, since gradients are to be sent between the two: throws
// std::invalid_argument.
Schedule with_delayed_weights(const Schedule& schedule);

}  // namespace merak::pipeline
