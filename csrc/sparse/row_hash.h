#pragma once
// Where a sketch puts a row: a cell for each of its hash functions, and a sign.
//
// The hash is the finaliser of MurmurHash3 (A. Appleby, public domain) on 64 bits, keyed by a seed; a number below
// `cells` is taken from it by a multiplication (D. Lemire, "Fast random integer generation in an interval", 2019).

#include <cstdint>

#include "transport/host_device.h"

namespace merak {

MERAK_HD inline std::uint64_t mixed(std::uint64_t bits) {
  bits = (bits ^ bits >> 33) * 0xff51afd7ed558ccdull;
  bits = (bits ^ bits >> 33) * 0xc4ceb9fe1a85ec53ull;
  return bits ^ bits >> 33;
}

struct RowHash {
  std::uint64_t seed = 0;

  MERAK_HD std::uint64_t bits(std::uint32_t row, std::uint32_t function) const {
    return mixed(mixed(seed + function * 0x9e3779b97f4a7c15ull) ^ row);
  }
  // The cell of one hash function, among `cells` of its own.
  MERAK_HD std::uint32_t cell(std::uint32_t row, std::uint32_t function, std::uint32_t cells) const {
    return static_cast<std::uint32_t>((bits(row, function) >> 32) * cells >> 32);
  }
  // -1 or 1.
  MERAK_HD int sign(std::uint32_t row, std::uint32_t function) const { return (bits(row, function) & 1) != 0 ? 1 : -1; }
};

}  // namespace merak
