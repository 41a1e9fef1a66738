#include "sparse/sum_rows.h"
#include "sparse/sum_rows_cuda.h"

namespace merak {

DeviceRowLists::DeviceRowLists(const Program& program) {
  const auto add = [this](const std::vector<std::uint32_t>& list) {
    const std::size_t begin = lists_.size();
    lists_.insert(lists_.end(), list.begin(), list.end());
    return begin;
  };
  for (const RowSums& sums : program.row_sums)
    where_.push_back(
        {add(sums.at), add(sums.first), add(sums.from), sums.rows(), sums.row_bytes, sums.at_pitch, sums.from_pitch});
}

void DeviceRowLists::sum_rows(DType dtype, void* at, const void* from, std::uint32_t index, int divisor,
                              cudaStream_t stream) const {
  constexpr std::size_t kStrip = 4;  // elements of a thread
  const Where& where = where_.at(index);
  with_summable_type(dtype, [&]<class T>(kernels::Type<T>) {
    const SumRows<T, kStrip> body{static_cast<T*>(at),        static_cast<const T*>(from),  device_ + where.at,
                                  device_ + where.first,      device_ + where.from,         where.row_bytes / sizeof(T),
                                  where.at_pitch / sizeof(T), where.from_pitch / sizeof(T), divisor};
    for_each(OnCuda{stream}, where.rows * body.strips(), body);
  });
}

}  // namespace merak
