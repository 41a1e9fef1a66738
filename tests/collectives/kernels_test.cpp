// Every element type with every reduction, beside a slow reference that is written with wider types.

#include "collectives/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <limits>
#include <stdexcept>
#include <vector>

namespace merak {
namespace {

using enum Reduction;
using kernels::Bool;
using kernels::Complex;

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, Bool>) return DType::kBool;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::kUInt8;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::kInt8;
  if constexpr (std::is_same_v<T, std::int16_t>) return DType::kInt16;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::kInt32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::kInt64;
  if constexpr (std::is_same_v<T, Half>) return DType::kFloat16;
  if constexpr (std::is_same_v<T, BFloat16>) return DType::kBFloat16;
  if constexpr (std::is_same_v<T, float>) return DType::kFloat32;
  if constexpr (std::is_same_v<T, double>) return DType::kFloat64;
  if constexpr (std::is_same_v<T, Complex<float>>) return DType::kComplex64;
  return DType::kComplex128;
}

// Every pair of `values`, reduced by the kernel in one call, as `expected(a, b)` says; `same` compares.
template <class T, class Expected, class Same>
void check_pairs(Reduction reduction, const std::vector<T>& values, Expected expected, Same same, int divisor = 1) {
  std::vector<T> at, from, wanted;
  for (T a : values)
    for (T b : values) at.push_back(a), from.push_back(b), wanted.push_back(expected(a, b));
  const Reducer reducer = make_reducer(dtype_of<T>(), reduction, divisor);
  ASSERT_EQ(reducer.element_bytes, sizeof(T));
  reducer.combine(reinterpret_cast<std::byte*>(at.data()), reinterpret_cast<const std::byte*>(from.data()), at.size());
  if (reducer.divide) reducer.divide(reinterpret_cast<std::byte*>(at.data()), at.size(), reducer.divisor);
  for (std::size_t i = 0; i < at.size(); ++i)
    ASSERT_TRUE(same(at[i], wanted[i])) << name(dtype_of<T>()) << " " << name(reduction) << ", pair " << i;
}

// -- integers

template <class T>
void check_integers() {
  using Wide = __int128;
  const T low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  const std::vector<T> values = {0, 1, 2, 3, 7, 100, low, high, T(low + 1), T(high - 1), T(-1), T(-5)};
  const auto check = [&](Reduction reduction, auto wide) {
    check_pairs<T>(
        reduction, values, [&](T a, T b) { return static_cast<T>(wide(Wide(a), Wide(b))); }, std::equal_to<>());
  };
  check(kSum, [](Wide a, Wide b) { return a + b; });
  check(kProduct, [](Wide a, Wide b) { return a * b; });
  check(kMin, [](Wide a, Wide b) { return a < b ? a : b; });
  check(kMax, [](Wide a, Wide b) { return a < b ? b : a; });
  check(kBitAnd, [](Wide a, Wide b) { return a & b; });
  check(kBitOr, [](Wide a, Wide b) { return a | b; });
  check(kBitXor, [](Wide a, Wide b) { return a ^ b; });
}

TEST(Kernels, OfIntegersWrapAround) {
  check_integers<std::uint8_t>();
  check_integers<std::int8_t>();
  check_integers<std::int16_t>();
  check_integers<std::int32_t>();
  check_integers<std::int64_t>();
}

TEST(Kernels, OfBoolsAreLogic) {
  const auto check = [](Reduction reduction, auto logic) {
    check_pairs<Bool>(
        reduction, {{0}, {1}},
        [&](Bool a, Bool b) { return Bool{logic(a.value == 1, b.value == 1) ? uint8_t(1) : uint8_t(0)}; },
        [](Bool a, Bool b) { return a.value == b.value; });
  };
  for (Reduction reduction : {kSum, kMax, kBitOr}) check(reduction, [](bool a, bool b) { return a || b; });
  for (Reduction reduction : {kProduct, kMin, kBitAnd}) check(reduction, [](bool a, bool b) { return a && b; });
  check(kBitXor, [](bool a, bool b) { return a != b; });
}

// -- floating point

template <class T>
bool same_number(T a, T b) {
  const double x = static_cast<double>(static_cast<float>(a)), y = static_cast<double>(static_cast<float>(b));
  if constexpr (std::is_same_v<T, double>) return a == b || (std::isnan(a) && std::isnan(b));
  return x == y || (std::isnan(x) && std::isnan(y));
}

template <class T, class Wide>
void check_floats() {
  using Limits = std::numeric_limits<Wide>;
  std::vector<T> values;
  for (Wide value : {Wide(0), -Wide(0), Wide(1), Wide(-1), Wide(1.5), Wide(2049), Wide(0.1), Wide(-3e4), Wide(6.5e4),
                     Limits::max(), Limits::min(), Limits::denorm_min(), Limits::infinity(), -Limits::infinity(),
                     Limits::quiet_NaN(), Wide(6e-8), Wide(3e-5)})
    values.push_back(T(value));
  const auto check = [&](Reduction reduction, auto wide, int divisor = 1) {
    check_pairs<T>(
        reduction, values, [&](T a, T b) { return T(wide(Wide(a), Wide(b))); }, same_number<T>, divisor);
  };
  check(kSum, [](Wide a, Wide b) { return a + b; });
  check(
      kAverage, [](Wide a, Wide b) { return Wide(T(a + b)) / 3; }, 3);
  check(kProduct, [](Wide a, Wide b) { return a * b; });
  const auto nan_or = [](Wide a, Wide b, Wide other) { return std::isnan(a) || std::isnan(b) ? Wide(NAN) : other; };
  check(kMin, [&](Wide a, Wide b) { return nan_or(a, b, std::fmin(a, b)); });
  check(kMax, [&](Wide a, Wide b) { return nan_or(a, b, std::fmax(a, b)); });
}

TEST(Kernels, OfFloatsRoundOnceAndKeepNaN) {
  check_floats<Half, float>();
  check_floats<BFloat16, float>();
  check_floats<float, float>();
  check_floats<double, double>();
}

template <class Real>
void check_complex() {
  using T = Complex<Real>;
  const std::vector<T> values = {{0, 0}, {1, 2}, {-3, Real(0.5)}, {Real(1e10), -1}, {0, 1}};
  const auto check = [&](Reduction reduction, auto wide, int divisor = 1) {
    check_pairs<T>(
        reduction, values,
        [&](T a, T b) {
          const std::complex<Real> c =
              wide(std::complex<Real>(a.real, a.imaginary), std::complex<Real>(b.real, b.imaginary));
          return T{c.real(), c.imag()};
        },
        [](T a, T b) { return a.real == b.real && a.imaginary == b.imaginary; }, divisor);
  };
  using C = std::complex<Real>;
  check(kSum, [](C a, C b) { return a + b; });
  check(
      kAverage, [](C a, C b) { return (a + b) / Real(4); }, 4);
  check(kProduct, [](C a, C b) { return a * b; });
}

TEST(Kernels, OfComplexNumbers) {
  check_complex<float>();
  check_complex<double>();
}

// -- what makes no sense

constexpr DType kIntegers[] = {DType::kUInt8, DType::kInt8, DType::kInt16, DType::kInt32, DType::kInt64};
constexpr DType kFloats[] = {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};
constexpr DType kComplex[] = {DType::kComplex64, DType::kComplex128};

void expect_refused(DType dtype, Reduction reduction) {
  EXPECT_THROW(make_reducer(dtype, reduction, 2), std::invalid_argument) << name(dtype) << " " << name(reduction);
}

TEST(Kernels, RefuseBitsOfInexactNumbers) {
  for (Reduction reduction : {kBitAnd, kBitOr, kBitXor}) {
    for (DType dtype : kFloats) expect_refused(dtype, reduction);
    for (DType dtype : kComplex) expect_refused(dtype, reduction);
  }
}

TEST(Kernels, RefuseOrderOfComplexNumbers) {
  for (DType dtype : kComplex) expect_refused(dtype, kMin), expect_refused(dtype, kMax);
}

TEST(Kernels, RefuseAveragesThatWouldNotBeExact) {
  for (DType dtype : kIntegers) expect_refused(dtype, kAverage);
  expect_refused(DType::kBool, kAverage);
}

TEST(Kernels, RefuseBytesAndNoReduction) {
  for (DType dtype : {DType::kBytes, DType::kNone}) expect_refused(dtype, kSum);
  expect_refused(DType::kFloat32, kNone);
}

TEST(Kernels, SayWhatToDoInstead) {
  try {
    make_reducer(DType::kInt32, kAverage, 2);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(std::string(error.what()),
              "int32 tensors have no reduction 'avg': reduce with sum and divide, or convert to a floating-point type");
  }
}

}  // namespace
}  // namespace merak
