#include "sparse/presence.h"

#include <gtest/gtest.h>

#include <random>

#include "transport/errors.h"

namespace merak {
namespace {

Bitmap random_bitmap(std::size_t bits, std::size_t members, std::mt19937& random) {
  Bitmap present(bits);
  for (std::size_t i = 0; i < members && bits > 0; ++i) present.set(random() % bits);
  return present;
}

TEST(Presence, ComesBack) {
  std::mt19937 random(1);
  for (std::size_t bits : {0, 1, 63, 64, 65, 1000, 100'000})
    for (std::size_t members : {0, 1, 5, 300, 50'000}) {
      const Bitmap present = random_bitmap(bits, members, random);
      EXPECT_EQ(decode_presence(encode_presence(present), bits), present) << bits << " bits, " << members;
    }
}

TEST(Presence, TakesTheShortestForm) {
  std::mt19937 random(1);
  const auto bytes = [&](std::size_t members) {
    return encode_presence(random_bitmap(1'000'000, members, random)).size();
  };
  EXPECT_EQ(encode_presence(Bitmap(1'000'000)).size(), 1u);
  EXPECT_LE(bytes(100), 301u);        // gaps of ten thousand: two bytes each, or three
  EXPECT_LE(bytes(10'000), 15'000u);  // gaps of a hundred
  EXPECT_EQ(bytes(900'000), 125'001u);
  Bitmap clustered(1'000'000);
  for (std::size_t block = 0; block < 15'625; block += 100)
    for (std::size_t bit = 0; bit < 64; bit += 2) clustered.set(block * 64 + bit);
  EXPECT_EQ(encode_presence(clustered).size(), 1 + 245 * 8 + 157 * 8u);  // two levels
}

TEST(Presence, RefusesWhatMakesNoSense) {
  const auto refused = [](std::vector<int> bytes, std::size_t bits) {
    std::vector<std::byte> message;
    for (int byte : bytes) message.push_back(static_cast<std::byte>(byte));
    EXPECT_THROW(decode_presence(message, bits), MismatchError);
  };
  refused({}, 10);
  refused({3}, 10);                             // no such form
  refused({0, 1, 0, 0, 0}, 10);                 // too short
  refused({0, 0, 255, 0, 0, 0, 0, 0, 0}, 10);   // beyond the end
  refused({0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, 10);  // too long
  refused({1, 1, 0, 0, 0, 0, 0, 0, 0}, 10);     // a block is missing
  refused({2, 10}, 10);                         // beyond the end
  refused({2, 9, 0}, 10);                       // so is the second
  refused({2, 128}, 10);                        // a gap without an end
  refused({2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, 10);
}

TEST(Presence, AnyBytesAreRefusedOrUnderstood) {
  std::mt19937 random(5);
  for (int times = 0; times < 100'000; ++times) {
    std::vector<std::byte> bytes(random() % 40);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % 4 == 0 ? random() : random() % 3);
    try {
      const Bitmap present = decode_presence(bytes, random() % 300);
      EXPECT_EQ(decode_presence(encode_presence(present), present.bits()), present);
    } catch (const MismatchError&) {
    }
  }
}

}  // namespace
}  // namespace merak
