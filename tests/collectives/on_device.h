#pragma once
// What the tests of GPUs need: memory there, and the real NCCL. MERAK_TEST_NCCL names the library that torch would
// load.

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "transport/nccl_api.h"
#include "transport/play.h"

namespace merak {

inline void require(cudaError_t result) {
  if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

inline int devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Memory of the current GPU.
class OnDevice {
 public:
  explicit OnDevice(std::size_t bytes) : bytes_(bytes) { require(cudaMalloc(&data_, std::max(bytes, std::size_t{1}))); }
  explicit OnDevice(const Message& message) : OnDevice(message.size()) {
    require(cudaMemcpy(data_, message.data(), bytes_, cudaMemcpyHostToDevice));
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  Buffer buffer() const { return {data_, bytes_}; }
  Message read() const {
    Message message(bytes_);
    require(cudaMemcpy(message.data(), data_, bytes_, cudaMemcpyDeviceToHost));
    return message;
  }

 private:
  std::size_t bytes_;
  void* data_ = nullptr;
};

inline const NcclApi& real_nccl() {
  const char* path = std::getenv("MERAK_TEST_NCCL");
  if (!path || !dlopen(path, RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error("set MERAK_TEST_NCCL to libnccl.so.2");
  return loaded_nccl();
}

}  // namespace merak
