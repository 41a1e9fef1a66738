#include "data/token_statistics.h"

#include <gtest/gtest.h>

namespace merak::data {
namespace {

TEST(TokenStatistics, CountTokensAndAddUpTheRarityOfSamples) {
  const std::vector<std::uint16_t> tokens = {3, 1, 1, 3, 3, 0};
  std::vector<std::int64_t> counts;
  count_tokens(tokens.data(), tokens.size(), counts);
  EXPECT_EQ(counts, (std::vector<std::int64_t>{1, 2, 0, 3}));
  const std::vector<double> costs = rarity_costs(counts);  // token 2 counts as one: 7 in all
  EXPECT_DOUBLE_EQ(costs[3], -std::log(3.0 / 7));
  EXPECT_DOUBLE_EQ(costs[2], -std::log(1.0 / 7));
  const std::vector<std::int64_t> offsets = {0, 3, 3, 6};
  std::vector<double> rarities(3);
  rarities_of(tokens.data(), offsets.data(), 3, costs, rarities.data());
  EXPECT_DOUBLE_EQ(rarities[0], costs[3] + costs[1] + costs[1]);
  EXPECT_EQ(rarities[1], 0);
  EXPECT_DOUBLE_EQ(rarities[2], costs[3] + costs[3] + costs[0]);
}

TEST(TokenStatistics, RefuseIdsThatAreNone) {
  std::vector<std::int64_t> counts;
  const std::int64_t negative = -1, huge = kMostTokens;
  EXPECT_THROW(count_tokens(&negative, 1, counts), std::invalid_argument);
  EXPECT_THROW(count_tokens(&huge, 1, counts), std::invalid_argument);
  const std::int64_t offsets[] = {0, 1};
  double rarity = 0;
  EXPECT_THROW(rarities_of(&negative, offsets, 1, {1.0}, &rarity), std::invalid_argument);
}

}  // namespace
}  // namespace merak::data
