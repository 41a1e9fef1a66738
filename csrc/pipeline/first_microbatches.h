#pragma once
// The same order for a smaller batch: a schedule that somebody wrote for m micro-batches runs the last, short batch of
// an epoch, or one of evaluation, without the actions of those that are not there. What is left keeps its order, and
// micro-batches do not depend on each other, so it is as right as it was.

#include "pipeline/schedule.h"

namespace merak::pipeline {

// Throws std::invalid_argument unless 1 <= microbatches <= schedule.microbatches.
Schedule first_microbatches(const Schedule& schedule, int microbatches);

}  // namespace merak::pipeline
