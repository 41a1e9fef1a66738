#include "data/sort_values.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>

namespace merak::data {
namespace {

TEST(SortValues, AscendAsTheStandardLibrarySortsThem) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<double> values(random() % 300);
    const int kind = static_cast<int>(seed % 3);
    for (double& value : values) {
      if (kind == 0) value = static_cast<double>(random() % 20);
      if (kind == 1) value = std::normal_distribution<double>(0, 1e3)(random);
      if (kind == 2) value = std::ldexp(1.0, static_cast<int>(random() % 2000) - 1000) * (random() % 2 != 0 ? 1 : -1);
    }
    if (values.size() > 3) values[0] = std::numeric_limits<double>::infinity(), values[1] = -0.0, values[2] = 0.0;
    const std::vector<std::uint32_t> order = ascending_order(values.data(), values.size(), seed);
    std::vector<std::uint32_t> positions = order;
    std::sort(positions.begin(), positions.end());
    std::vector<std::uint32_t> all(values.size());
    std::iota(all.begin(), all.end(), 0);
    ASSERT_EQ(positions, all) << "seed " << seed;
    for (std::size_t i = 1; i < order.size(); ++i) ASSERT_LE(values[order[i - 1]], values[order[i]]) << "seed " << seed;
  }
}

TEST(SortValues, ListsEqualOnesInAnOrderOfTheSeed) {
  const std::vector<double> equal(5000, 3.0);
  const std::vector<std::uint32_t> order = ascending_order(equal.data(), equal.size(), 1);
  EXPECT_EQ(ascending_order(equal.data(), equal.size(), 1), order);
  EXPECT_NE(ascending_order(equal.data(), equal.size(), 2), order);
  const double mean = std::accumulate(order.begin(), order.begin() + 500, 0.0) / 500;
  EXPECT_NEAR(mean, 2500, 300);  // of 500 of 5000 at random: 5 sigma
}

TEST(SortValues, RefuseWhatIsNotANumber) {
  const std::vector<double> values = {1, std::nan(""), 2};
  EXPECT_THROW(ascending_order(values.data(), values.size(), 0), std::invalid_argument);
}

}  // namespace
}  // namespace merak::data
