#include "sparse/sum_rows.h"

#include "sparse/whole_rows.h"

namespace merak {
namespace {

template <class T>
void sum_rows(std::byte* at, const std::byte* from, const RowSums& sums, int divisor) {
  using Body = SumRows<T, kCpuStrip<typename WideOf<T>::type>>;
  const Body body{reinterpret_cast<T*>(at),
                  reinterpret_cast<const T*>(from),
                  sums.at.data(),
                  sums.first.data(),
                  sums.from.data(),
                  sums.row_bytes / sizeof(T),
                  sums.at_pitch / sizeof(T),
                  sums.from_pitch / sizeof(T),
                  divisor};
  for_each_whole_row(body, sums.rows(), sums.from.size());
}

}  // namespace

Reducer make_sparse_reducer(DType dtype, Reduction reduction, int divisor) {
  if (reduction != Reduction::kSum && reduction != Reduction::kAverage)
    throw std::invalid_argument(std::string("sparse tensors have no reduction '") + name(reduction) +
                                "': use SUM or AVG, or reduce x.to_dense()");
  Reducer reducer = make_reducer(dtype, reduction, divisor);
  reducer.sum_rows = with_summable_type(dtype, []<class T>(kernels::Type<T>) { return &sum_rows<T>; });
  return reducer;
}

}  // namespace merak
