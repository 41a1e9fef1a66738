#include "data/move_tokens.h"

#include <gtest/gtest.h>

#include <vector>

#include "data/kept_tokens.h"

namespace merak::data {
namespace {

// Bytes of any length, at any address: every word's size is met.
TEST(MoveTokens, MovesTokensOfAnySizeFromAnyAddress) {
  for (std::size_t token_bytes : {1, 2, 3, 4, 6, 8, 12, 16, 20, 48, 64})
    for (std::size_t offset : {0, 1, 2, 4, 8}) {
      const std::size_t sequences = 3, length = 10, kept = 4;
      std::vector<std::int64_t> index(sequences * kept);
      keep_tokens(OnCpu{}, {token_bytes, offset, 0, 0}, sequences, length, kept, index.data());
      const TokenMove move{sequences, length, kept, token_bytes, index.data()};
      ASSERT_EQ(first_bad_sequence(move), sequences);
      std::vector<unsigned char> full(sequences * length * token_bytes + offset), part(sequences * kept * token_bytes);
      for (std::size_t i = 0; i < full.size(); ++i) full[i] = static_cast<unsigned char>(i * 37 + 11);
      gather_tokens(OnCpu{}, move, full.data() + offset, part.data());
      std::vector<unsigned char> back(full.size(), 7), expected(full.size(), 7);
      place_tokens(OnCpu{}, move, part.data(), back.data() + offset);
      for (std::size_t token = 0; token < sequences * kept; ++token)
        for (std::size_t byte = 0; byte < token_bytes; ++byte) {
          const std::size_t at = (token / kept * length + index[token]) * token_bytes + byte + offset;
          ASSERT_EQ(part[token * token_bytes + byte], full[at]) << token_bytes << " bytes at " << offset;
          expected[at] = full[at];
        }
      ASSERT_EQ(back, expected) << token_bytes << " bytes at " << offset;
    }
}

TEST(MoveTokens, FindsIndicesThatAreNone) {
  for (const std::vector<std::int64_t>& bad : std::vector<std::vector<std::int64_t>>{{1, 1}, {2, 1}, {0, 5}, {-1, 0}}) {
    std::vector<std::int64_t> index = {0, 4};
    index.insert(index.end(), bad.begin(), bad.end());
    EXPECT_EQ(first_bad_sequence({2, 5, 2, 8, index.data()}), 1);
  }
}

}  // namespace
}  // namespace merak::data
