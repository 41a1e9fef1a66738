#pragma once
// *at += value for several threads at once, in one source for CPU and GPU. The order of additions is not fixed: with
// floating-point types the last bits may differ from run to run, so a result that must be the same bits on every rank
// is not made with it.
//
// Types: 32- and 64-bit integers (which wrap around), float, double, and 16-bit floats: any 16-bit type with a member
// `bits` that converts explicitly to float and back. Those are added as floats and rounded after every addition.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "transport/host_device.h"

namespace merak {

template <class T>
inline constexpr bool is_atomic_half = sizeof(T) == 2 && std::is_class_v<T>;

#ifdef __CUDA_ARCH__

// Old GPUs swap no less than a word, so the neighbour of a 16-bit element is swapped with it, unchanged.
template <class T>
__device__ void atomic_add_half(T* at, T value) {
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(at);
  const unsigned shift = (address & 2) * 8;
  unsigned* word = reinterpret_cast<unsigned*>(address & ~std::uintptr_t{3});
  unsigned seen = *word, assumed;
  do {
    assumed = seen;
    T sum;
    sum.bits = static_cast<std::uint16_t>(assumed >> shift);
    sum = T(float(sum) + float(value));
    const unsigned with_sum = (assumed & ~(0xffffu << shift)) | static_cast<unsigned>(sum.bits) << shift;
    seen = atomicCAS(word, assumed, with_sum);
  } while (seen != assumed);
}

#else

template <class T>
void atomic_add_half(T* at, T value) {
  const std::atomic_ref<std::uint16_t> bits(at->bits);
  std::uint16_t seen = bits.load(std::memory_order_relaxed);
  T sum;
  do {
    sum.bits = seen;
    sum = T(float(sum) + float(value));
  } while (!bits.compare_exchange_weak(seen, sum.bits, std::memory_order_relaxed));
}

#endif

template <class T>
MERAK_HD void atomic_add(T* at, T value) {
  static_assert(is_atomic_half<T> || (std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8)));
  if constexpr (is_atomic_half<T>) {
    atomic_add_half(at, value);
  } else {
#ifdef __CUDA_ARCH__
    // CUDA has it for these types; signed and unsigned integers add alike.
    using Word = std::conditional_t<sizeof(T) == 8, unsigned long long, unsigned>;
    using Added = std::conditional_t<std::is_floating_point_v<T>, T, Word>;
    atomicAdd(reinterpret_cast<Added*>(at), static_cast<Added>(value));
#else
    std::atomic_ref<T>(*at).fetch_add(value, std::memory_order_relaxed);
#endif
  }
}

}  // namespace merak
