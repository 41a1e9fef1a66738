#pragma once
// The arithmetic of reductions: for every element type and operation one body, which the CPU runs in a loop
// (kernels.cpp) and the GPU over a grid (kernels_cuda.cu).
//
// What the operations mean, where it is not obvious; as in torch:
// - min and max give NaN when an operand is NaN;
// - integers wrap around;
// - of bools, sum and max are "or", product and min are "and";
// - 16-bit floats are added as floats and rounded after every operation;
// - an average is a sum, divided at the end; integers and bools have none.

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "collectives/half.h"
#include "transport/operation.h"
#include "transport/signature.h"

namespace merak {

// Throws std::invalid_argument, with what to do, where the type has no such operation. `divisor`: by what an average
// divides, the number of operands.
Reducer make_reducer(DType dtype, Reduction reduction, int divisor);

namespace kernels {

struct Bool {
  std::uint8_t value;
};

template <class T>
struct Complex {
  T real, imaginary;
};

template <class T>
inline constexpr bool is_half = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;
template <class T>
inline constexpr bool is_complex = std::is_same_v<T, Complex<float>> || std::is_same_v<T, Complex<double>>;
template <class T>
inline constexpr bool is_bool = std::is_same_v<T, Bool>;
template <class T>
inline constexpr bool is_inexact = std::is_floating_point_v<T> || is_half<T> || is_complex<T>;

// What integers are added and multiplied as: unsigned types wrap, and nothing narrower than int, which would be widened
// to a signed one.
template <class T>
using Wrapping = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

struct Sum {
  template <class T>
  static constexpr bool has = true;

  template <class T>
  MERAK_HD static T of(T a, T b) {
    if constexpr (is_half<T>)
      return T(float(a) + float(b));
    else if constexpr (is_complex<T>)
      return {a.real + b.real, a.imaginary + b.imaginary};
    else if constexpr (is_bool<T>)
      return {static_cast<std::uint8_t>((a.value | b.value) != 0)};
    else if constexpr (std::is_integral_v<T>)
      return static_cast<T>(Wrapping<T>(a) + Wrapping<T>(b));
    else
      return a + b;
  }
};

struct Product {
  template <class T>
  static constexpr bool has = true;

  template <class T>
  MERAK_HD static T of(T a, T b) {
    if constexpr (is_half<T>)
      return T(float(a) * float(b));
    else if constexpr (is_complex<T>)
      return {a.real * b.real - a.imaginary * b.imaginary, a.real * b.imaginary + a.imaginary * b.real};
    else if constexpr (is_bool<T>)
      return {static_cast<std::uint8_t>((a.value != 0) & (b.value != 0))};
    else if constexpr (std::is_integral_v<T>)
      return static_cast<T>(Wrapping<T>(a) * Wrapping<T>(b));
    else
      return a * b;
  }
};

struct Min {
  template <class T>
  static constexpr bool has = !is_complex<T>;

  template <class T>
  MERAK_HD static T of(T a, T b) {
    if constexpr (is_half<T>)
      return float(b) < float(a) || float(b) != float(b) ? b : a;
    else if constexpr (is_bool<T>)
      return Product::of(a, b);
    else
      return b < a || b != b ? b : a;
  }
};

struct Max {
  template <class T>
  static constexpr bool has = !is_complex<T>;

  template <class T>
  MERAK_HD static T of(T a, T b) {
    if constexpr (is_half<T>)
      return float(b) > float(a) || float(b) != float(b) ? b : a;
    else if constexpr (is_bool<T>)
      return Sum::of(a, b);
    else
      return b > a || b != b ? b : a;
  }
};

struct BitAnd {
  template <class T>
  static constexpr bool has = !is_inexact<T>;

  template <class T>
  MERAK_HD static T of(T a, T b) {
    if constexpr (is_bool<T>)
      return Product::of(a, b);
    else
      return static_cast<T>(a & b);
  }
};

struct BitOr {
  template <class T>
  static constexpr bool has = !is_inexact<T>;

  template <class T>
  MERAK_HD static T of(T a, T b) {
    if constexpr (is_bool<T>)
      return Sum::of(a, b);
    else
      return static_cast<T>(a | b);
  }
};

struct BitXor {
  template <class T>
  static constexpr bool has = !is_inexact<T>;

  template <class T>
  MERAK_HD static T of(T a, T b) {
    if constexpr (is_bool<T>)
      return {static_cast<std::uint8_t>((a.value != 0) != (b.value != 0))};
    else
      return static_cast<T>(a ^ b);
  }
};

template <class T>
MERAK_HD T divided(T value, int divisor) {
  if constexpr (is_half<T>)
    return T(float(value) / static_cast<float>(divisor));
  else if constexpr (is_complex<T>)
    return {value.real / static_cast<decltype(value.real)>(divisor),
            value.imaginary / static_cast<decltype(value.real)>(divisor)};
  else
    return value / static_cast<T>(divisor);
}

template <class T>
struct Type {
  using type = T;
};

[[noreturn]] inline void refuse(DType dtype, Reduction reduction) {
  const bool average = reduction == Reduction::kAverage;
  throw std::invalid_argument(std::string(name(dtype)) + " tensors have no reduction '" + name(reduction) + "': " +
                              (average ? "reduce with sum and divide, or convert to a floating-point type"
                                       : "use sum or product, or convert to a type that has it"));
}

// Calls visit(Type<T>()) with the type that holds elements of `dtype`.
template <class Visit>
auto with_type(DType dtype, Reduction reduction, Visit visit) {
  switch (dtype) {
    case DType::kBool:
      return visit(Type<Bool>());
    case DType::kUInt8:
      return visit(Type<std::uint8_t>());
    case DType::kInt8:
      return visit(Type<std::int8_t>());
    case DType::kInt16:
      return visit(Type<std::int16_t>());
    case DType::kInt32:
      return visit(Type<std::int32_t>());
    case DType::kInt64:
      return visit(Type<std::int64_t>());
    case DType::kFloat16:
      return visit(Type<Half>());
    case DType::kBFloat16:
      return visit(Type<BFloat16>());
    case DType::kFloat32:
      return visit(Type<float>());
    case DType::kFloat64:
      return visit(Type<double>());
    case DType::kComplex64:
      return visit(Type<Complex<float>>());
    case DType::kComplex128:
      return visit(Type<Complex<double>>());
    default:  // no data, or without arithmetic
      break;
  }
  refuse(dtype, reduction);
}

// Calls visit(Type<Operation>()) with the operation that `reduction` stands for.
template <class Visit>
auto with_operation(DType dtype, Reduction reduction, Visit visit) {
  switch (reduction) {
    case Reduction::kSum:
    case Reduction::kAverage:
      return visit(Type<Sum>());
    case Reduction::kProduct:
      return visit(Type<Product>());
    case Reduction::kMin:
      return visit(Type<Min>());
    case Reduction::kMax:
      return visit(Type<Max>());
    case Reduction::kBitAnd:
      return visit(Type<BitAnd>());
    case Reduction::kBitOr:
      return visit(Type<BitOr>());
    case Reduction::kBitXor:
      return visit(Type<BitXor>());
    case Reduction::kNone:
      break;
  }
  refuse(dtype, reduction);
}

}  // namespace kernels
}  // namespace merak
