#pragma once
// Looking up rows of a table whose columns are split over the ranks: every rank copies together, of the columns that it
// has, the rows that each of the others reads, and sends them there; a rank puts together what comes, at all tokens
// that read the row.
//
// Bytes on the wire: every rank sends its columns of the rows that others read, k D / n (n - 1) elements where each
// reads k rows of D columns.
//
// Source: S. Li et al., "EmbRace: Accelerating Sparse Communication for Distributed Training of Deep Neural Networks",
// 2022. There every token travels; here every row that is read.

#include "embedding/batch.h"
#include "transport/program.h"

namespace merak {

// Input: this rank's columns of all rows of the table. Output: whole rows, one a token. Scratch: windows.
Program lookup(const Batch& batch);

}  // namespace merak
