#pragma once
// The sums of rows of sum_rows.h on a GPU, on raw pointers and a stream. Asynchronous: errors of the launch show in
// cudaGetLastError.
//
// The lists of rows have to be on the device, too: all of a program are copied there at once, by whoever has the memory
// (from pinned memory; cudaMemcpyAsync from other memory would first wait for all that is on the stream).

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/program.h"
#include "transport/signature.h"

namespace merak {

// The lists of a program's sums. Needs the device memory to outlive the work on the stream.
class DeviceRowLists {
 public:
  explicit DeviceRowLists(const Program& program);

  const std::vector<std::uint32_t>& lists() const { return lists_; }
  // Where a copy of them lies on the device, before any sums are asked for.
  void lie_at(const void* device) { device_ = static_cast<const std::uint32_t*>(device); }

  // Carries out sums `index` of the program, on elements of `dtype`; `divisor`: of an average, else 1. Throws
  // std::invalid_argument as make_sparse_reducer does.
  void sum_rows(DType dtype, void* at, const void* from, std::uint32_t index, int divisor, cudaStream_t stream) const;

 private:
  struct Where {  // in lists_
    std::size_t at, first, from;
    std::size_t rows, row_bytes, at_pitch, from_pitch;
  };

  std::vector<std::uint32_t> lists_;
  std::vector<Where> where_;  // by index of the sums
  const std::uint32_t* device_ = nullptr;
};

}  // namespace merak
