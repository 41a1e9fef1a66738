#pragma once
// The gradient of a lookup (lookup.h): it goes the way back. A rank adds up what all its tokens that read a row have of
// it, and sends every other the slices that it holds; which adds up, in the order of ranks, what it is sent.
//
// Bytes on the wire: as many as those of the lookup.

#include "embedding/batch.h"
#include "transport/program.h"

namespace merak {

// Input: the gradient of the lookup's output, a whole row a token. Output: this rank's slices of the rows batch.held(),
// one behind the other; an average is divided. Scratch: what comes, and windows.
Program gradient(const Batch& batch);

}  // namespace merak
