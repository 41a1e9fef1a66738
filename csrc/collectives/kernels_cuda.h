#pragma once
// The reductions of kernels.h on a GPU, on raw pointers and a stream. Asynchronous: errors of the launch show in
// cudaGetLastError.

#include <cuda_runtime.h>

#include <cstddef>

#include "transport/signature.h"

namespace merak {

// at[i] = at[i] (op) from[i], for `count` elements. Throws std::invalid_argument as make_reducer does.
void combine_on_device(DType dtype, Reduction reduction, void* at, const void* from, std::size_t count,
                       cudaStream_t stream);

// at[i] = at[i] / divisor: ends an average.
void divide_on_device(DType dtype, void* at, std::size_t count, int divisor, cudaStream_t stream);

}  // namespace merak
