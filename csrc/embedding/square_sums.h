#pragma once
// Sums of the squares of rows, which row-wise Adagrad needs (update_rows.h).
//
// A sum is made in kLanes partial ones: column j goes to lane j mod kLanes, in ascending order, and lanes are added in
// halves. The order so depends on nothing but the number of columns: a row's sum has the same bits whatever rows are
// beside it, and with vectors of any length.

#include <cstddef>

#include "transport/signature.h"

namespace merak {

// `rows`: [count, columns], contiguous, of fp32, fp64, bf16 or fp16; `sums`: [count], written; of fp32 where elements
// have 16 bits, else of their dtype. Throws std::invalid_argument for other dtypes.
void square_sums(DType dtype, const void* rows, std::size_t count, std::size_t columns, void* sums);

}  // namespace merak
