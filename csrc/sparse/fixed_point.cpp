#include "sparse/fixed_point.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "sparse/sum_rows.h"

namespace merak {
namespace {

template <class T>
double as_double(T value) {
  if constexpr (kernels::is_half<T>)
    return static_cast<double>(static_cast<float>(value));
  else
    return static_cast<double>(value);
}

void include_value(ExponentRange& range, double value) {
  range.representable &= std::isfinite(value) && !(value == 0 && std::signbit(value));
  if (value == 0 || !std::isfinite(value)) return;
  constexpr int kMantissa = 53;
  int exponent = 0;
  const auto mantissa = static_cast<std::int64_t>(std::ldexp(std::frexp(value, &exponent), kMantissa));
  const int zeros = std::countr_zero(static_cast<std::uint64_t>(std::abs(mantissa)));
  range.low = std::min(range.low, exponent - kMantissa + zeros);
  range.high = std::max(range.high, exponent);
}

template <class T, class Integer>
void to_integers(const T* values, std::size_t count, int low, Integer* integers) {
  for (std::size_t i = 0; i < count; ++i)
    if constexpr (std::is_integral_v<T>)
      integers[i] = static_cast<Integer>(values[i]);
    else
      integers[i] = static_cast<Integer>(std::ldexp(as_double(values[i]), -low));
}

template <class T, class Integer>
void to_values(const Integer* integers, std::size_t count, int low, int divisor, T* values) {
  for (std::size_t i = 0; i < count; ++i) {
    if constexpr (std::is_integral_v<T>) {
      values[i] = static_cast<T>(integers[i]);
    } else {
      using Wide = typename WideOf<T>::type;
      const Wide sum = std::ldexp(static_cast<Wide>(integers[i]), low);
      values[i] = T(divisor == 1 ? sum : kernels::divided(sum, divisor));
    }
  }
}

bool is_integer(DType dtype) { return dtype == DType::kInt32 || dtype == DType::kInt64; }

}  // namespace

void ExponentRange::include(const ExponentRange& other) {
  low = std::min(low, other.low), high = std::max(high, other.high), representable &= other.representable;
}

ExponentRange exponents_of(DType dtype, const void* values, std::size_t count) {
  ExponentRange range;
  if (is_integer(dtype)) return range;
  with_summable_type(dtype, [&]<class T>(kernels::Type<T>) {
    for (std::size_t i = 0; i < count; ++i) include_value(range, as_double(static_cast<const T*>(values)[i]));
  });
  return range;
}

int bits_for(DType dtype, const ExponentRange& range, int ranks) {
  if (dtype == DType::kInt32) return 32;
  if (dtype == DType::kInt64) return 64;
  if (!range.representable) return 0;
  const int sum = std::bit_width(static_cast<unsigned>(ranks) - 1);  // ceil(log2)
  const int needed = range.empty() ? 0 : range.high - range.low + sum;
  return needed <= 31 ? 32 : needed <= 63 ? 64 : 0;
}

void to_fixed_point(DType dtype, const void* values, std::size_t count, const ExponentRange& range, int bits,
                    void* integers) {
  const int low = range.empty() ? 0 : range.low;
  with_summable_type(dtype, [&]<class T>(kernels::Type<T>) {
    if (bits == 32)
      to_integers(static_cast<const T*>(values), count, low, static_cast<std::int32_t*>(integers));
    else
      to_integers(static_cast<const T*>(values), count, low, static_cast<std::int64_t*>(integers));
  });
}

void from_fixed_point(DType dtype, const void* integers, std::size_t count, const ExponentRange& range, int bits,
                      int divisor, void* values) {
  const int low = range.empty() ? 0 : range.low;
  with_summable_type(dtype, [&]<class T>(kernels::Type<T>) {
    if (bits == 32)
      to_values(static_cast<const std::int32_t*>(integers), count, low, divisor, static_cast<T*>(values));
    else
      to_values(static_cast<const std::int64_t*>(integers), count, low, divisor, static_cast<T*>(values));
  });
}

}  // namespace merak
