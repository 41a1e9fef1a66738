#pragma once
// One kernel body, two launchers. A *body* is a small struct with
//
//   MERAK_HD void operator()(std::size_t i) const;
//
// which does the work of index i and touches nothing that another index writes, but through atomic_add.h. A *place*
// says where it runs: `for_each(OnCpu{threads}, count, body)` runs it over threads, `for_each(OnCuda{stream}, count,
// body)` over a grid. A kernel written as a template over its place is therefore the same source on both, and what its
// tests find on a CPU holds for the GPU, which adds the launch alone:
//
//   template <class Place>
//   void scale(Place place, float* values, std::size_t count, float by) {
//     for_each(place, count, Scale{values, by});
//   }

#include <algorithm>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include "transport/host_device.h"
#include "transport/thread.h"

namespace merak {

struct OnCpu {
  int threads = 1;
};

// Indices that are worth a thread: starting one takes as long as tens of thousands of simple bodies.
inline constexpr std::size_t kIndicesPerThread = 32 * 1024;

struct Helpers {
  std::vector<std::thread> threads;
  ~Helpers() {  // joins also when no further thread can be started
    for (std::thread& thread : threads) thread.join();
  }
};

// Calls body(i) for every i below `count`, each once, in any order, and returns when all are done. Throws what a body
// threw; of several, one.
template <class Body>
void for_each(OnCpu place, std::size_t count, Body body) {
  const std::size_t most = std::max(place.threads, 1);
  const std::size_t parts = std::clamp(count / kIndicesPerThread, std::size_t{1}, most);
  std::vector<std::exception_ptr> errors(parts);
  const auto run = [&](std::size_t part) {
    try {
      const Body mine = body;  // a copy that cannot be aliased, so that the loop is vectorised
      const std::size_t share = count / parts, longer = count % parts;
      const std::size_t begin = part * share + std::min(part, longer), end = begin + share + (part < longer ? 1 : 0);
      for (std::size_t i = begin; i < end; ++i) mine(i);
    } catch (...) {
      errors[part] = std::current_exception();
    }
  };
  {
    Helpers helpers;
    for (std::size_t part = 1; part < parts; ++part)
      helpers.threads.push_back(start_thread("merak-for-each", [&run, part] { run(part); }));
    run(0);
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

#ifdef __CUDACC__

struct OnCuda {
  cudaStream_t stream = nullptr;
};

inline constexpr unsigned kCudaThreads = 256;      // of a block
inline constexpr unsigned kMostCudaBlocks = 4096;  // of a grid: beyond it every thread takes several indices

template <class Body>
__global__ void for_each_kernel(std::size_t count, Body body) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) body(i);
}

// As above, but returns at once; the work is done in the order of the stream. Errors of the launch show in
// cudaGetLastError.
template <class Body>
void for_each(OnCuda place, std::size_t count, Body body) {
  if (count == 0) return;
  const std::size_t blocks = std::min<std::size_t>((count + kCudaThreads - 1) / kCudaThreads, kMostCudaBlocks);
  for_each_kernel<<<static_cast<unsigned>(blocks), kCudaThreads, 0, place.stream>>>(count, body);
}

#endif

}  // namespace merak
