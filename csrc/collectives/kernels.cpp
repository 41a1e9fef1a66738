#include "collectives/kernels.h"

namespace merak {
namespace {

// -O2 alone vectorises only loops whose length it knows.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

template <class T, class Operation>
void combine(std::byte* at, const std::byte* from, std::size_t count) {
  T* __restrict to = reinterpret_cast<T*>(at);
  const T* __restrict operand = reinterpret_cast<const T*>(from);
  for (std::size_t i = 0; i < count; ++i) to[i] = Operation::of(to[i], operand[i]);
}

template <class T>
void divide(std::byte* at, std::size_t count, int divisor) {
  T* values = reinterpret_cast<T*>(at);
  for (std::size_t i = 0; i < count; ++i) values[i] = kernels::divided(values[i], divisor);
}

}  // namespace

Reducer make_reducer(DType dtype, Reduction reduction, int divisor) {
  return kernels::with_type(dtype, reduction, [&]<class T>(kernels::Type<T>) {
    return kernels::with_operation(dtype, reduction, [&]<class Operation>(kernels::Type<Operation>) -> Reducer {
      Reducer reducer{sizeof(T), nullptr, nullptr, 1};
      if constexpr (Operation::template has<T>) reducer.combine = combine<T, Operation>;
      if (reduction == Reduction::kAverage) {
        if constexpr (kernels::is_inexact<T>)
          reducer.divide = divide<T>;
        else
          kernels::refuse(dtype, reduction);
        reducer.divisor = divisor;
      }
      if (!reducer.combine) kernels::refuse(dtype, reduction);
      return reducer;
    });
  });
}

}  // namespace merak
