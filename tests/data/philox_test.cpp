#include "data/philox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace merak::data {
namespace {

std::vector<std::uint32_t> words_of(const RandomWords& random) { return {random.words, random.words + 4}; }

// The known answers that come with Random123, kat_vectors.
TEST(Philox, GivesTheKnownAnswers) {
  using Words = std::vector<std::uint32_t>;
  EXPECT_EQ(words_of(philox(0, 0, 0)), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint64_t ones = ~0ull;
  EXPECT_EQ(words_of(philox(ones, ones, ones)), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words_of(philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull)),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, KeysDifferByWhateverTheyAreFor) {
  std::vector<std::uint64_t> keys;
  for (const Purpose purpose : {Purpose::kDeck, Purpose::kKeptTokens})
    for (std::uint64_t at = 0; at < 3; ++at)
      for (std::uint64_t seed : {0, 1}) {
        keys.push_back(stream_key(seed, purpose, at + 1, 0, 0));
        keys.push_back(stream_key(seed, purpose, 0, at + 1, 0));
        keys.push_back(stream_key(seed, purpose, 0, 0, at + 1));
      }
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(std::adjacent_find(keys.begin(), keys.end()), keys.end());
}

}  // namespace
}  // namespace merak::data
