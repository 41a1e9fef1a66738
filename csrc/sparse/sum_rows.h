#pragma once
// The arithmetic of sums of rows (transport/row_sums.h): one body, run over CPU threads and over a GPU's grid.
//
// A *strip* is so many neighbouring elements of a row. The body adds up one strip of one row at a time, so that the
// partial sums stay in registers: a thread of a GPU has a strip to itself, a CPU takes those of a row in turn
// (whole_rows.h).

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "collectives/kernels.h"
#include "transport/for_each.h"
#include "transport/row_sums.h"
#include "transport/vectorise.h"

namespace merak {

// What partial sums are kept in: 16-bit floats as fp32; integers wrap around, as unsigned ones.
template <class T>
struct WideOf {
  using type = T;
};
template <>
struct WideOf<Half> {
  using type = float;
};
template <>
struct WideOf<BFloat16> {
  using type = float;
};

MERAK_VECTORISE

template <class T, std::size_t kStrip>
struct SumRows {
  using Element = T;
  using Wide = typename WideOf<T>::type;

  T* at;
  const T* from;
  const std::uint32_t *rows, *first, *sources;  // of RowSums: at, first, from
  std::size_t elements;                         // of a row
  std::size_t at_pitch, from_pitch;             // elements from a row to the next
  int divisor;

  MERAK_HD std::size_t strips() const { return (elements + kStrip - 1) / kStrip; }

  MERAK_HD void operator()(std::size_t i) const { strip(i / strips(), i % strips() * kStrip); }

  // The strip of a row that begins at an element of it.
  MERAK_HD void strip(std::size_t row, std::size_t begin) const {
    if (is_copy(row)) return copy(row, begin, elements - begin < kStrip ? elements - begin : kStrip);
    visit(row, begin, [=, this](const Wide* sums, auto count) { finish(target(row, begin), sums, count); });
  }

  // Calls use(sums, count) with the sums of that strip.
  template <class Use>
  MERAK_HD void visit(std::size_t row, std::size_t begin, Use use) const {
    if (elements - begin >= kStrip)
      sum(row, begin, std::integral_constant<std::size_t, kStrip>(), use);
    else
      sum(row, begin, elements - begin, use);
  }

  MERAK_HD const T* source_at(std::uint32_t source, std::size_t begin) const {
    return from + RowSums::row_of(source) * from_pitch + begin;
  }

  // Does a row that is one source, or one on zeros, in one go; else false.
  MERAK_HD bool whole(std::size_t row) const {
    if (divisor != 1) return false;
    const std::uint32_t* source = sources + first[row];
    const std::size_t count = first[row + 1] - first[row];
    if (count == 2 && source[0] == RowSums::kZeros && source[1] != RowSums::kZeros) {
      put_on_zeros(target(row, 0), source[1]);
      return true;
    }
    if (is_copy(row)) copy(row, 0, elements);
    return is_copy(row);
  }

 private:
  // `Count`: a constant of the type where it can be, so that the partial sums lie in registers.
  template <class Count, class Use>
  MERAK_HD void sum(std::size_t row, std::size_t begin, Count count, Use use) const {
    std::uint32_t next = first[row];
    const std::uint32_t end = first[row + 1];
    Wide sums[kStrip];
    start(sums, next == end ? RowSums::kZeros : sources[next], begin, count);
    for (++next; next < end; ++next) add(sums, sources[next], begin, count);
    use(sums, count);
  }

  template <class Count>
  MERAK_HD void start(Wide* sums, std::uint32_t source, std::size_t begin, Count count) const {
    const bool zeros = source == RowSums::kZeros;
    const T* values = zeros ? nullptr : source_at(source, begin);
    for (std::size_t j = 0; j < count; ++j) sums[j] = zeros ? Wide(0) : Wide(values[j]);
    if (!zeros && RowSums::is_minus(source))
      for (std::size_t j = 0; j < count; ++j) sums[j] = negative(sums[j]);
  }

  template <class Count>
  MERAK_HD void add(Wide* sums, std::uint32_t source, std::size_t begin, Count count) const {
    if (source == RowSums::kZeros) {
      for (std::size_t j = 0; j < count; ++j) sums[j] = kernels::Sum::of(sums[j], Wide(0));
      return;
    }
    const T* values = source_at(source, begin);
    if (RowSums::is_minus(source))
      for (std::size_t j = 0; j < count; ++j) sums[j] = kernels::Sum::of(sums[j], negative(Wide(values[j])));
    else
      for (std::size_t j = 0; j < count; ++j) sums[j] = kernels::Sum::of(sums[j], Wide(values[j]));
  }

  MERAK_HD void put_on_zeros(T* to, std::uint32_t source) const {
    const T* values = source_at(source, 0);
    if (RowSums::is_minus(source))
      for (std::size_t j = 0; j < elements; ++j) to[j] = T(kernels::Sum::of(Wide(0), negative(Wide(values[j]))));
    else
      for (std::size_t j = 0; j < elements; ++j) to[j] = T(kernels::Sum::of(Wide(0), Wide(values[j])));
  }

  MERAK_HD static Wide negative(Wide value) {
    if constexpr (std::is_integral_v<Wide>)
      return static_cast<Wide>(kernels::Wrapping<Wide>(0) - kernels::Wrapping<Wide>(value));  // as Sum wraps around
    else
      return -value;
  }

  template <class Count>
  MERAK_HD void finish(T* to, const Wide* sums, Count count) const {
    if (divisor == 1)  // outside the loop: gcc would divide integers by it
      for (std::size_t j = 0; j < count; ++j) to[j] = T(sums[j]);
    else
      for (std::size_t j = 0; j < count; ++j) to[j] = T(kernels::divided(sums[j], divisor));
  }

  MERAK_HD bool is_copy(std::size_t row) const {
    if (first[row + 1] != first[row] + 1 || divisor != 1) return false;
    const std::uint32_t source = sources[first[row]];
    return source == RowSums::kZeros || !RowSums::is_minus(source);
  }

  MERAK_HD void copy(std::size_t row, std::size_t begin, std::size_t count) const {
    const std::uint32_t source = sources[first[row]];
    if (source == RowSums::kZeros)
      memset(target(row, begin), 0, count * sizeof(T));
    else
      memcpy(target(row, begin), source_at(source, begin), count * sizeof(T));
  }

  MERAK_HD T* target(std::size_t row, std::size_t begin) const { return at + rows[row] * at_pitch + begin; }
};

MERAK_VECTORISE_END

// Calls visit(Type<T>()) for the element types that sparse operations have; throws std::invalid_argument for others.
template <class Visit>
auto with_summable_type(DType dtype, Visit visit) {
  return kernels::with_type(dtype, Reduction::kSum, [&]<class T>(kernels::Type<T> type) {
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double> || kernels::is_half<T> ||
                  std::is_same_v<T, std::int32_t> || std::is_same_v<T, std::int64_t>)
      return visit(type);
    else
      return refuse_to_sum<decltype(visit(kernels::Type<float>()))>(dtype);
  });
}

template <class Result>
[[noreturn]] Result refuse_to_sum(DType dtype) {
  throw std::invalid_argument(std::string(name(dtype)) +
                              " tensors cannot be reduced sparsely: convert to float32, float64, bfloat16, float16, "
                              "int32 or int64, or reduce a dense tensor");
}

// The reducer of a sparse operation on CPU: sums of rows, and the reductions and divisions of rings. An average divides
// by `divisor`. Throws std::invalid_argument for types that have no such sum, or no average.
Reducer make_sparse_reducer(DType dtype, Reduction reduction, int divisor);

}  // namespace merak
