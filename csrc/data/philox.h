#pragma once
// Random numbers by counter: the same four 32-bit words for the same key and counter, wherever and whenever they are
// asked for, so that nothing has to be carried along to go on or to begin again.
//
// Philox4x32-10 (J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// A *stream* is the numbers of one purpose: `stream_key` turns a seed and what the numbers are for into the key of a
// stream, by the same function. Numbers below a bound are taken by a multiplication (D. Lemire, "Fast random integer
// generation in an interval", 2019).

#include <cstdint>

#include "transport/host_device.h"

namespace merak::data {

struct RandomWords {
  std::uint32_t words[4];

  MERAK_HD std::uint64_t low() const { return words[0] | static_cast<std::uint64_t>(words[1]) << 32; }
  MERAK_HD std::uint64_t high() const { return words[2] | static_cast<std::uint64_t>(words[3]) << 32; }
};

MERAK_HD inline RandomWords philox(std::uint64_t key, std::uint64_t low, std::uint64_t high) {
  std::uint32_t first = static_cast<std::uint32_t>(key), second = static_cast<std::uint32_t>(key >> 32);
  RandomWords at{{static_cast<std::uint32_t>(low), static_cast<std::uint32_t>(low >> 32),
                  static_cast<std::uint32_t>(high), static_cast<std::uint32_t>(high >> 32)}};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = 0xD2511F53ull * at.words[0], b = 0xCD9E8D57ull * at.words[2];
    at = {{static_cast<std::uint32_t>(b >> 32) ^ at.words[1] ^ first, static_cast<std::uint32_t>(b),
           static_cast<std::uint32_t>(a >> 32) ^ at.words[3] ^ second, static_cast<std::uint32_t>(a)}};
    first += 0x9E3779B9u, second += 0xBB67AE85u;
  }
  return at;
}

enum class Purpose : std::uint32_t { kKeptTokens = 1, kDeck = 2, kTies = 3 };

MERAK_HD inline std::uint64_t stream_key(std::uint64_t seed, Purpose purpose, std::uint64_t step = 0,
                                         std::uint64_t microbatch = 0, std::uint64_t layer = 0) {
  const std::uint64_t of_purpose = philox(seed, static_cast<std::uint64_t>(purpose), layer).low();
  return philox(of_purpose, step, microbatch).low();
}

// A number below `bound`, from 32 random bits.
MERAK_HD inline std::uint32_t below(std::uint32_t bits, std::uint32_t bound) {
  return static_cast<std::uint32_t>(static_cast<std::uint64_t>(bits) * bound >> 32);
}

}  // namespace merak::data
