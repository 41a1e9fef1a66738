#pragma once
// *at |= value for several threads at once, in one source for CPU and GPU. Unlike additions, the order does not matter.

#include <atomic>
#include <cstdint>

#include "transport/host_device.h"

namespace merak {

// Looks first: where the bits are set already, as most are when many threads set the same, nothing is written.
MERAK_HD inline void atomic_or(std::uint64_t* at, std::uint64_t value) {
#ifdef __CUDA_ARCH__
  if ((*static_cast<volatile std::uint64_t*>(at) & value) == value) return;
  atomicOr(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
#else
  const std::atomic_ref<std::uint64_t> word(*at);
  if ((word.load(std::memory_order_relaxed) & value) == value) return;
  word.fetch_or(value, std::memory_order_relaxed);
#endif
}

}  // namespace merak
