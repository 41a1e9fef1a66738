#pragma once
// The rows of mark_rows.h on a GPU, on raw pointers and a stream. Asynchronous: errors of the launch show in
// cudaGetLastError.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace merak {

// Sets the bits of the rows of `table` with any bit set, in words that are zero before: Bitmap::words_for(table_rows).
// Rows are well aligned for their elements.
void mark_rows_on_device(const void* table, std::size_t table_rows, std::size_t row_bytes, std::size_t element_bytes,
                         std::uint64_t* present, cudaStream_t stream);

}  // namespace merak
