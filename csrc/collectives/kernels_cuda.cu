#include <algorithm>

#include "collectives/kernels.h"
#include "collectives/kernels_cuda.h"

namespace merak {
namespace {

constexpr unsigned kThreads = 256, kMostBlocks = 4096;

template <class Body>
__global__ void run_for_each(std::size_t count, Body body) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) body(i);
}

// Calls body(i) for i below `count`, each once, in any order.
template <class Body>
void for_each(std::size_t count, cudaStream_t stream, Body body) {
  if (count == 0) return;
  const std::size_t blocks = std::min<std::size_t>((count + kThreads - 1) / kThreads, kMostBlocks);
  run_for_each<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(count, body);
}

template <class T, class Operation>
struct Combine {
  T* at;
  const T* from;
  __device__ void operator()(std::size_t i) const { at[i] = Operation::of(at[i], from[i]); }
};

template <class T>
struct Divide {
  T* at;
  int divisor;
  __device__ void operator()(std::size_t i) const { at[i] = kernels::divided(at[i], divisor); }
};

}  // namespace

void combine_on_device(DType dtype, Reduction reduction, void* at, const void* from, std::size_t count,
                       cudaStream_t stream) {
  kernels::with_type(dtype, reduction, [&]<class T>(kernels::Type<T>) {
    kernels::with_operation(dtype, reduction, [&]<class Operation>(kernels::Type<Operation>) {
      if constexpr (Operation::template has<T>)
        for_each(count, stream, Combine<T, Operation>{static_cast<T*>(at), static_cast<const T*>(from)});
      else
        kernels::refuse(dtype, reduction);
    });
  });
}

void divide_on_device(DType dtype, void* at, std::size_t count, int divisor, cudaStream_t stream) {
  kernels::with_type(dtype, Reduction::kAverage, [&]<class T>(kernels::Type<T>) {
    if constexpr (kernels::is_inexact<T>)
      for_each(count, stream, Divide<T>{static_cast<T*>(at), divisor});
    else
      kernels::refuse(dtype, Reduction::kAverage);
  });
}

}  // namespace merak
