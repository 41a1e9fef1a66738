#include "collectives/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace merak {
namespace {

// What 16 bits with that many of fraction mean, by the definition.
double slow_value(std::uint16_t bits, int fraction_bits) {
  const int exponent_bits = 15 - fraction_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int fraction = bits & ((1 << fraction_bits) - 1), exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

template <class T>
std::uint16_t rounded(double value) {
  return T(static_cast<float>(value)).bits;
}

template <class T>
void check_type(int fraction_bits) {
  const std::uint16_t infinity = static_cast<std::uint16_t>(0x7fff & ~((1 << fraction_bits) - 1));
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    T half;
    half.bits = static_cast<std::uint16_t>(i);
    const double value = slow_value(half.bits, fraction_bits);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float(half)));
      EXPECT_TRUE(std::isnan(float(T(float(half)))));
      continue;
    }
    ASSERT_EQ(float(half), value) << i;
    ASSERT_EQ(std::signbit(float(half)), std::signbit(value)) << i;
    ASSERT_EQ(T(float(half)).bits, i);
    if ((i & 0x7fff) == infinity) continue;
    // Between this and the next one away from zero: a tie goes to the even one, all else to the nearer one. The one
    // after the largest counts as infinity.
    const std::uint16_t next = static_cast<std::uint16_t>(i + 1);
    const double largest_step = value - slow_value(static_cast<std::uint16_t>(i - 1), fraction_bits);
    const double above = (next & 0x7fff) == infinity ? value + largest_step : slow_value(next, fraction_bits);
    const float tie = static_cast<float>((value + above) / 2);
    if (std::isinf(tie) || tie != (value + above) / 2) continue;  // below float's own resolution
    ASSERT_EQ(T(tie).bits, i % 2 ? next : i) << i;
    ASSERT_EQ(T(std::nextafter(tie, 0.0f)).bits, i) << i;
    ASSERT_EQ(T(std::nextafter(tie, value < 0 || std::signbit(value) ? -INFINITY : INFINITY)).bits, next) << i;
  }
}

TEST(Half, RoundsEveryNeighbourhoodToTheNearest) { check_type<Half>(10); }
TEST(BFloat16, RoundsEveryNeighbourhoodToTheNearest) { check_type<BFloat16>(7); }

TEST(Half, BecomesInfiniteAboveItsRange) {
  EXPECT_EQ(rounded<Half>(65504), 0x7bff);
  EXPECT_EQ(rounded<Half>(65519.9), 0x7bff);
  EXPECT_EQ(rounded<Half>(65520), 0x7c00);
  EXPECT_EQ(rounded<Half>(-1e30), 0xfc00);
  EXPECT_EQ(rounded<BFloat16>(3.4e38), 0x7f80);
}

TEST(Half, LosesWhatIsBelowItsRange) {
  EXPECT_EQ(rounded<Half>(std::ldexp(1, -24)), 1);
  EXPECT_EQ(rounded<Half>(std::ldexp(1, -25)), 0);
  EXPECT_EQ(rounded<Half>(std::ldexp(1.001, -25)), 1);
  EXPECT_EQ(rounded<Half>(-1e-30), 0x8000);
}

}  // namespace
}  // namespace merak
