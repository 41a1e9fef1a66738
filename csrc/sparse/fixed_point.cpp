#include "sparse/fixed_point.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "sparse/sum_rows.h"
#include "transport/vectorise.h"

namespace merak {
namespace {

template <class T>
inline constexpr bool is_double = std::is_same_v<T, double>;

// 2^exponent as two factors, since it can be out of range itself. Multiplying by the first is exact here.
template <class Wide>
struct PowerOfTwo {
  explicit PowerOfTwo(int exponent)
      : half(std::ldexp(Wide(1), exponent / 2)), rest(std::ldexp(Wide(1), exponent - exponent / 2)) {}

  Wide half, rest;
};

MERAK_VECTORISE

// How a value of type float or double is stored: as an integer `significand` times 2^`unit`.
template <class Wide>
struct Parts {
  using Bits = std::conditional_t<is_double<Wide>, std::uint64_t, std::uint32_t>;
  using Signed = std::make_signed_t<Bits>;
  static constexpr int kFraction = std::numeric_limits<Wide>::digits - 1;
  static constexpr Signed kBias = std::numeric_limits<Wide>::max_exponent - 1;
  static constexpr Bits kHidden = Bits{1} << kFraction, kSign = Bits{1} << (8 * sizeof(Bits) - 1);
  static constexpr Bits kInfinity = kSign - kHidden;

  explicit Parts(Wide value) {
    const Bits bits = bits_as<Bits>(value), magnitude = bits & ~kSign;
    const Bits exponent = magnitude >> kFraction, fraction = magnitude & (kHidden - 1);
    const Bits denormal = exponent == 0;
    significand = static_cast<Signed>(fraction + ((1 - denormal) << kFraction));
    unit = static_cast<Signed>(exponent + denormal) - kBias - kFraction;
    representable = Signed{static_cast<Signed>(magnitude) < static_cast<Signed>(kInfinity)} & Signed{bits != kSign};
  }

  // Of a positive integer that the type holds, floor(log2): the conversion finds it, in vectors too.
  static Signed log2(Signed integer) {
    return static_cast<Signed>(bits_as<Bits>(static_cast<Wide>(integer)) >> kFraction) - kBias;
  }

  Signed significand, unit;
  Signed representable;  // 0 or 1
};

// Of the values in one piece of them.
template <class T>
struct RangeOfPiece {
  static constexpr std::size_t kPiece = 4096;

  const T* values;
  std::size_t count;

  ExponentRange operator()(std::size_t piece) const {
    using Wide = std::conditional_t<is_double<T>, double, float>;
    using Signed = typename Parts<Wide>::Signed;
    Signed low = INT_MAX, high = INT_MIN, all = 1;
    for (std::size_t i = piece * kPiece; i < std::min(count, (piece + 1) * kPiece); ++i) {
      const Parts<Wide> parts(static_cast<Wide>(values[i]));
      const Signed lowest = parts.unit + Parts<Wide>::log2(parts.significand & -parts.significand);
      const Signed above = parts.unit + Parts<Wide>::log2(parts.significand) + 1;
      const Signed counts = -(Signed{parts.significand != 0} & parts.representable);  // all bits, or none: no branch
      low = std::min(low, (lowest & counts) | (INT_MAX & ~counts));
      high = std::max(high, (above & counts) | (INT_MIN & ~counts));
      all &= parts.representable;
    }
    return {static_cast<int>(low), static_cast<int>(high), all != 0};
  }
};

template <class T, class Integer>
void to_integers(const T* values, std::size_t count, int low, Integer* integers) {
  if constexpr (std::is_integral_v<T>) {
    for (std::size_t i = 0; i < count; ++i) integers[i] = static_cast<Integer>(values[i]);
  } else {
    using Wide = std::conditional_t<is_double<T>, double, float>;
    const PowerOfTwo<double> scale(-low);
    for (std::size_t i = 0; i < count; ++i)
      integers[i] = static_cast<Integer>(static_cast<double>(static_cast<Wide>(values[i])) * scale.half * scale.rest);
  }
}

template <class T, class Integer>
void to_values(const Integer* integers, std::size_t count, int low, int divisor, T* values) {
  if constexpr (std::is_integral_v<T>) {
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<T>(integers[i]);
  } else {
    using Wide = typename WideOf<T>::type;
    const PowerOfTwo<Wide> scale(low);
    const auto value = [&](std::size_t i) { return static_cast<Wide>(integers[i]) * scale.half * scale.rest; };
    if (divisor == 1)
      for (std::size_t i = 0; i < count; ++i) values[i] = T(value(i));
    else
      for (std::size_t i = 0; i < count; ++i) values[i] = T(kernels::divided(value(i), divisor));
  }
}

MERAK_VECTORISE_END

bool is_integer(DType dtype) { return dtype == DType::kInt32 || dtype == DType::kInt64; }

}  // namespace

void ExponentRange::include(const ExponentRange& other) {
  low = std::min(low, other.low), high = std::max(high, other.high), representable &= other.representable;
}

ExponentRange exponents_of(DType dtype, const void* values, std::size_t count) {
  ExponentRange range;
  if (is_integer(dtype)) return range;
  with_summable_type(dtype, [&]<class T>(kernels::Type<T>) {
    if constexpr (!std::is_integral_v<T>)
      with_longest_vectors(RangeOfPiece<T>{static_cast<const T*>(values), count}, [&](const auto& range_of) {
        for (std::size_t piece = 0; piece * RangeOfPiece<T>::kPiece < count; ++piece) range.include(range_of(piece));
      });
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
