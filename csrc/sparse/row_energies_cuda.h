#pragma once
// The energies of rows (row_energies.h) on a GPU, on raw pointers and a stream. Asynchronous: errors of the launch show
// in cudaGetLastError.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "transport/signature.h"

namespace merak {

struct DeviceRows {  // all of it on the device
  const void* from;
  const std::uint32_t *first, *sources;  // of RowSums: first, from
  std::size_t rows, elements;            // of a row
};

// How many doubles it needs to work in.
std::size_t strip_energies(const DeviceRows& rows);

// `strips`: strip_energies() of them; `energies`: one a row. `dtype`: fp32 or fp64, else throws std::invalid_argument.
void energies_of_rows_on_device(DType dtype, const DeviceRows& rows, double* strips, double* energies,
                                cudaStream_t stream);

}  // namespace merak
