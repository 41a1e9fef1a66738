#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "bindings/data_on_cuda.h"
#include "data/tokens_cuda.h"

namespace merak::data {

void gather_on_cuda(const TokenMove& move, const at::Tensor& full, at::Tensor& part) {
  const c10::cuda::CUDAGuard guard(full.device());
  gather_tokens_cuda(move, full.const_data_ptr(), part.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void place_on_cuda(const TokenMove& move, const at::Tensor& part, at::Tensor& full) {
  const c10::cuda::CUDAGuard guard(full.device());
  place_tokens_cuda(move, part.const_data_ptr(), full.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void keep_on_cuda(const KeptTokensOf& of, std::uint32_t length, at::Tensor& index) {
  const c10::cuda::CUDAGuard guard(index.device());
  keep_tokens_cuda(of, static_cast<std::size_t>(index.size(0)), length, static_cast<std::uint32_t>(index.size(1)),
                   index.mutable_data_ptr<std::int64_t>(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace merak::data
