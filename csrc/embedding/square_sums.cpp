#include "embedding/square_sums.h"

#include <stdexcept>
#include <string>
#include <type_traits>

#include "collectives/kernels.h"
#include "sparse/sum_rows.h"
#include "transport/for_each.h"
#include "transport/vectorise.h"

namespace merak {
namespace {

MERAK_VECTORISE

template <class T>
struct SumSquares {
  using Wide = typename WideOf<T>::type;
  static constexpr std::size_t kLanes = 16;

  const T* rows;
  std::size_t columns;
  Wide* sums;

  void operator()(std::size_t i) const {
    const T* row = rows + i * columns;
    Wide lanes[kLanes] = {};
    std::size_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) add(lanes, row + j, kLanes);
    add(lanes, row + j, columns - j);
    for (std::size_t half = kLanes / 2; half > 0; half /= 2)
      for (std::size_t k = 0; k < half; ++k) lanes[k] += lanes[k + half];
    sums[i] = lanes[0];
  }

 private:
  static void add(Wide* lanes, const T* some, std::size_t count) {
    for (std::size_t k = 0; k < count; ++k) lanes[k] += Wide(some[k]) * Wide(some[k]);
  }
};

MERAK_VECTORISE_END

}  // namespace

void square_sums(DType dtype, const void* rows, std::size_t count, std::size_t columns, void* sums) {
  with_summable_type(dtype, [&]<class T>(kernels::Type<T>) {
    if constexpr (std::is_integral_v<T>) {
      throw std::invalid_argument(std::string("gradients of ") + name(dtype) + " cannot be squared");
    } else {
      using Wide = typename WideOf<T>::type;
      const SumSquares<T> body{static_cast<const T*>(rows), columns, static_cast<Wide*>(sums)};
      with_longest_vectors(body, [&](const auto& row) { for_each(OnCpu{}, count, row); });
    }
  });
}

}  // namespace merak
