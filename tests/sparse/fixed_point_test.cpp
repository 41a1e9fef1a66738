#include "sparse/fixed_point.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "collectives/half.h"

namespace merak {
namespace {

ExponentRange range_of(const std::vector<float>& values) {
  return exponents_of(DType::kFloat32, values.data(), values.size());
}

TEST(FixedPoint, RangesAreThoseOfTheBits) {
  EXPECT_TRUE(range_of({}).empty());
  EXPECT_TRUE(range_of({0.0f}).empty());
  EXPECT_FALSE(range_of({-0.0f}).representable);
  EXPECT_EQ(range_of({1.0f}), (ExponentRange{0, 1, true}));
  EXPECT_EQ(range_of({-6.0f, 0.25f}), (ExponentRange{-2, 3, true}));
  EXPECT_EQ(range_of({std::numeric_limits<float>::denorm_min()}), (ExponentRange{-149, -148, true}));
  EXPECT_FALSE(range_of({1.0f, std::nanf("")}).representable);
  EXPECT_FALSE(range_of({-INFINITY}).representable);
}

// The range of one value by the library's own taking apart.
template <class T>
ExponentRange obvious_range(T value) {
  const auto wide = static_cast<double>(value);
  if (wide == 0 || !std::isfinite(wide)) return {INT_MAX, INT_MIN, wide == 0 && !std::signbit(wide)};
  ExponentRange range;
  std::frexp(wide, &range.high);
  range.low = range.high;
  while (std::ldexp(wide, -range.low) != std::trunc(std::ldexp(wide, -range.low))) --range.low;
  return range;
}

template <class T, class Bits>
void expect_obvious_ranges(DType dtype) {
  std::mt19937_64 random(5);
  for (int times = 0; times < 20000; ++times) {
    std::vector<T> values(1 + random() % 9);
    ExponentRange expected;
    for (T& value : values) {
      Bits bits = static_cast<Bits>(random());
      if (random() % 2 == 0) bits = bits >> (4 * sizeof(Bits)) << (4 * sizeof(Bits));  // few bits of fraction
      if (random() % 4 == 0) bits = bits >> 4 * sizeof(Bits);                          // denormal, or zero
      value = bits_as<T>(bits);
      expected.include(obvious_range(value));
    }
    const ExponentRange found = exponents_of(dtype, values.data(), values.size());
    ASSERT_EQ(found.representable, expected.representable) << times;
    if (!found.representable) continue;
    ASSERT_EQ(found, expected) << times;
  }
}

TEST(FixedPoint, RangesAreThoseOfFrexp) {
  expect_obvious_ranges<float, std::uint32_t>(DType::kFloat32);
  expect_obvious_ranges<double, std::uint64_t>(DType::kFloat64);
}

TEST(FixedPoint, BitsLeaveRoomForTheSum) {
  const ExponentRange wide{0, 29, true};
  EXPECT_EQ(bits_for(DType::kFloat32, wide, 4), 32);
  EXPECT_EQ(bits_for(DType::kFloat32, wide, 5), 64);
  EXPECT_EQ(bits_for(DType::kFloat32, {0, 63, true}, 2), 0);
  EXPECT_EQ(bits_for(DType::kFloat32, {0, 1, false}, 2), 0);
  EXPECT_EQ(bits_for(DType::kFloat32, {}, 8), 32);
  EXPECT_EQ(bits_for(DType::kInt64, {}, 8), 64);
}

// What four ranks have, added up as integers, is what they have added up exactly, then rounded.
TEST(FixedPoint, SumsAreExact) {
  std::mt19937 random(3);
  for (int times = 0; times < 2000; ++times) {
    std::vector<float> values(4);
    for (float& value : values)
      value =
          std::ldexp(static_cast<float>(static_cast<int>(random() % 2048) - 1024), static_cast<int>(random() % 8) - 4);
    const ExponentRange range = range_of(values);
    const int bits = bits_for(DType::kFloat32, range, 4);
    ASSERT_EQ(bits, 32);
    std::vector<std::int32_t> integers(4);
    to_fixed_point(DType::kFloat32, values.data(), 4, range, bits, integers.data());
    const std::int32_t sum = integers[0] + integers[1] + integers[2] + integers[3];
    float found = 0;
    from_fixed_point(DType::kFloat32, &sum, 1, range, bits, 4, &found);
    EXPECT_EQ(found, (values[0] + values[1] + values[2] + values[3]) / 4);
  }
}

TEST(FixedPoint, EveryHalfButNegativeZeroComesBack) {
  std::vector<Half> halves;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    Half half;
    half.bits = static_cast<std::uint16_t>(bits);
    if (std::isfinite(static_cast<float>(half)) && bits != 0x8000) halves.push_back(half);
  }
  const ExponentRange range = exponents_of(DType::kFloat16, halves.data(), halves.size());
  const int bits = bits_for(DType::kFloat16, range, 16);
  ASSERT_EQ(bits, 64);
  std::vector<std::int64_t> integers(halves.size());
  to_fixed_point(DType::kFloat16, halves.data(), halves.size(), range, bits, integers.data());
  std::vector<Half> found(halves.size());
  from_fixed_point(DType::kFloat16, integers.data(), halves.size(), range, bits, 1, found.data());
  for (std::size_t i = 0; i < halves.size(); ++i) EXPECT_EQ(found[i].bits, halves[i].bits);
}

}  // namespace
}  // namespace merak
