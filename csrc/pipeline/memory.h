#pragma once
// Counts what a schedule keeps alive on each rank. A rank does its actions in order, so this is the same at any speed
// and for any delay of messages:
//
//   activations    from F until B or W; between F and R only the stage's inputs, which is called a checkpoint
//   receives       a buffer from RECV until the end of what consumes it
//   static         the weights and all that goes with them, always
//
// What is being sent is not counted: it is an activation or a gradient that just was.

#include <vector>

#include "pipeline/schedule.h"

namespace merak::pipeline {

struct StageBytes {
  double fixed = 0;       // weights, their gradients, the optimizer's state
  double activation = 0;  // of a micro-batch, inputs included
  double checkpoint = 0;  // of a micro-batch: its inputs alone
};

// The most at any time: of each count on its own, and of all bytes together.
struct Peak {
  double bytes = 0;
  int activations = 0, checkpoints = 0, receives = 0;
};

struct PeakMemory {
  std::vector<Peak> ranks;
  std::vector<Peak> stages;  // bytes include `fixed`, but no buffers of receives; `receives` is 0
};

// `stages` has an entry a stage, `message_bytes` an entry an edge, for the value and for its gradient. Needs a schedule
// that check() accepts.
PeakMemory peak_memory(const Schedule& schedule, const std::vector<StageBytes>& stages,
                       const std::vector<double>& message_bytes);

// By stage: the most micro-batches at any time between F and B or W.
std::vector<int> in_flight(const Schedule& schedule);

}  // namespace merak::pipeline
