#pragma once
// The two 16-bit floating-point types, as storage: arithmetic converts to float and back. Conversion to float is exact;
// back, it rounds to the nearest, of two equally near ones to the even. Written without branches, so that loops over
// them are vectorised, and for CPU and GPU alike.

#include <cstdint>
#include <cstring>

#include "transport/host_device.h"

namespace merak {

template <class To, class From>
MERAK_HD inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

struct Half {  // IEEE binary16: 1 bit sign, 5 exponent, 10 fraction
  std::uint16_t bits;

  Half() = default;
  MERAK_HD explicit Half(float value) {
    const std::uint32_t all = bits_as<std::uint32_t>(value), sign = all >> 16 & 0x8000, magnitude = all & 0x7fffffff;
    // The exponent's bias is 112 less; what is rounded away carries into the exponent, up to infinity.
    const std::uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    // Below 2^-14: adding 0.5 makes the float unit round at 2^-24, the smallest denormal, and leaves it as an integer.
    const std::uint32_t denormal = bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000;
    const std::uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    const std::uint32_t finite = magnitude < 0x38800000 ? denormal : normal;
    bits = static_cast<std::uint16_t>(sign | (magnitude < 0x47800000 ? finite : special));
  }
  MERAK_HD explicit operator float() const {
    const std::uint32_t sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
    // Multiplying by 2^112 mends the bias, for denormals too; it leaves infinity and NaN to be mended.
    const std::uint32_t finite = bits_as<std::uint32_t>(bits_as<float>(magnitude) * 0x1p112f);
    return bits_as<float>(sign | (magnitude < 0x0f800000 ? finite : magnitude | 0x7f800000));
  }
};

struct BFloat16 {  // the upper half of a float
  std::uint16_t bits;

  BFloat16() = default;
  MERAK_HD explicit BFloat16(float value) {
    const std::uint32_t all = bits_as<std::uint32_t>(value);
    const std::uint32_t rounded = (all + 0x7fff + (all >> 16 & 1)) >> 16;
    const std::uint32_t nan = all >> 16 | 0x40;  // rounding could turn it into infinity
    bits = static_cast<std::uint16_t>((all & 0x7fffffff) > 0x7f800000 ? nan : rounded);
  }
  MERAK_HD explicit operator float() const { return bits_as<float>(static_cast<std::uint32_t>(bits) << 16); }
};

}  // namespace merak
