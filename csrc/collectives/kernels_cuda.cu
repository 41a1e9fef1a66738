#include "collectives/kernels.h"
#include "collectives/kernels_cuda.h"
#include "transport/element_wise.h"

namespace merak {
namespace {

template <class Operation>
struct Combine {
  template <class T>
  MERAK_HD T operator()(T a, T b) const {
    return Operation::of(a, b);
  }
};

struct Divide {
  int divisor;
  template <class T>
  MERAK_HD T operator()(T value) const {
    return kernels::divided(value, divisor);
  }
};

}  // namespace

void combine_on_device(DType dtype, Reduction reduction, void* at, const void* from, std::size_t count,
                       cudaStream_t stream) {
  kernels::with_type(dtype, reduction, [&]<class T>(kernels::Type<T>) {
    kernels::with_operation(dtype, reduction, [&]<class Operation>(kernels::Type<Operation>) {
      if constexpr (Operation::template has<T>)
        combine_each(OnCuda{stream}, static_cast<T*>(at), static_cast<const T*>(from), count, Combine<Operation>());
      else
        kernels::refuse(dtype, reduction);
    });
  });
}

void divide_on_device(DType dtype, void* at, std::size_t count, int divisor, cudaStream_t stream) {
  kernels::with_type(dtype, Reduction::kAverage, [&]<class T>(kernels::Type<T>) {
    if constexpr (kernels::is_inexact<T>)
      update_each(OnCuda{stream}, static_cast<T*>(at), count, Divide{divisor});
    else
      kernels::refuse(dtype, Reduction::kAverage);
  });
}

}  // namespace merak
