#pragma once
// Adds REDUCE_GRAD: once a stage has the gradients of its weights of all micro-batches, they are summed over the
// replicas of the model. It stands directly after the stage's last B or W, or after the sends that follow that, since
// other ranks wait for those.

#include "pipeline/schedule.h"

namespace merak::pipeline {

// A schedule that reduces already stays as it is.
Schedule with_reduction(const Schedule& schedule);

}  // namespace merak::pipeline
