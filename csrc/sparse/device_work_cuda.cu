#include "collectives/kernels_cuda.h"
#include "sparse/device_work_cuda.h"

namespace merak {

DeviceWork sparse_cuda_work(DType dtype, Reduction reduction, int divisor, const DeviceRowLists& lists) {
  DeviceWork work = cuda_work([=](std::byte* at, const std::byte* from, std::size_t bytes, bool completes,
                                  CudaStreamHandle handle) {
    const auto stream = static_cast<cudaStream_t>(handle);
    const std::size_t count = bytes / element_bytes(dtype);
    combine_on_device(dtype, reduction == Reduction::kAverage ? Reduction::kSum : reduction, at, from, count, stream);
    if (completes && divisor != 1) divide_on_device(dtype, at, count, divisor, stream);
  });
  work.sum_rows = [=, &lists](std::byte* at, const std::byte* from, const RowSums&, std::uint32_t index, bool completes,
                              CudaStreamHandle handle) {
    lists.sum_rows(dtype, at, from, index, completes ? divisor : 1, static_cast<cudaStream_t>(handle));
  };
  return work;
}

}  // namespace merak
