#pragma once
// Looking up rows of a table that is split over the ranks: every rank copies together its slices (split.h) of the rows
// that each of the others reads, and sends them there; a rank puts together what comes, at all tokens that read the
// row.
//
// Bytes on the wire: every rank sends its slices of the rows that others read. Where each reads k rows of D columns
// those are k D / n (n - 1) elements, of a table that is split by columns; of one that is split by rows, as many on
// average.
//
// Source: S. Li et al., "EmbRace: Accelerating Sparse Communication for Distributed Training of Deep Neural Networks",
// 2022. There every token travels; here every row that is read.

#include "embedding/batch.h"
#include "transport/program.h"

namespace merak {

// Input: this rank's part of the table. Output: whole rows, one a token. Scratch: windows.
Program lookup(const Batch& batch);

}  // namespace merak
