#include "data/kept_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

namespace merak::data {
namespace {

using Index = std::vector<std::int64_t>;

Index keep(KeptTokensOf of, std::size_t sequences, std::uint32_t length, std::uint32_t kept, int threads = 1) {
  Index index(sequences * kept, -1);
  keep_tokens(OnCpu{threads}, of, sequences, length, kept, index.data());
  return index;
}

TEST(KeptTokens, AreAscendingAndWithinTheSequence) {
  for (std::uint32_t length : {1, 2, 3, 4, 5, 17, 128, 4097})
    for (std::uint32_t kept : {1u, length / 2, length - 1, length}) {
      if (kept == 0) continue;
      const Index index = keep({7, 1, 2, 3}, 5, length, kept);
      for (std::size_t i = 0; i < index.size(); ++i) {
        ASSERT_LT(index[i], length);
        if (i % kept != 0) {
          ASSERT_LT(index[i - 1], index[i]) << length << " tokens, " << kept << " kept";
        }
        if (kept == length) {
          ASSERT_EQ(index[i], static_cast<std::int64_t>(i % kept));
        }
      }
    }
}

TEST(KeptTokens, AreAllChoicesEquallyLikely) {  // chi squared over the 20 ways to keep 3 of 6
  const std::size_t sequences = 40000;
  const Index index = keep({1, 0, 0, 0}, sequences, 6, 3);
  std::map<Index, double> counts;
  for (std::size_t s = 0; s < sequences; ++s) ++counts[{index[3 * s], index[3 * s + 1], index[3 * s + 2]}];
  ASSERT_EQ(counts.size(), 20);
  double chi_squared = 0;
  for (const auto& [choice, count] : counts) chi_squared += std::pow(count - 2000, 2) / 2000;
  EXPECT_LT(chi_squared, 43.8);  // one in a thousand is above, with 19 degrees of freedom
}

TEST(KeptTokens, DependOnNothingButWhatTheyAreFor) {
  const KeptTokensOf of{11, 5, 6, 2};
  const Index index = keep(of, 9, 64, 16);
  EXPECT_EQ(keep(of, 9, 64, 16, 4), index);
  const Index fewer = keep(of, 4, 64, 16);
  EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), index.begin()));
  for (const KeptTokensOf& other : {KeptTokensOf{12, 5, 6, 2}, {11, 4, 6, 2}, {11, 5, 7, 2}, {11, 5, 6, 1}})
    EXPECT_NE(keep(other, 9, 64, 16), index);
}

}  // namespace
}  // namespace merak::data
