#include "resharding/run_list.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "resharding/oracle.h"

namespace merak {
namespace {

RunList run_list(const Indices& indices) {
  RunList list;
  for (std::size_t i : indices) append(list, {i, i + 1});
  return list;
}

Indices random_indices(std::mt19937& random, std::size_t below) {
  Indices indices;
  const unsigned density = random() % 5;
  for (std::size_t i = 0; i < below; ++i)
    if (random() % 4 < density) indices.push_back(i);
  return indices;
}

TEST(RunList, JoinsRunsThatTouchAndDropsEmptyOnes) {
  RunList list;
  for (const auto& [begin, end] : RunList{{0, 0}, {1, 3}, {3, 4}, {6, 6}, {6, 8}}) append(list, {begin, end});
  EXPECT_EQ(list, (RunList{{1, 4}, {6, 8}}));
  EXPECT_EQ(count(list), 5u);
}

TEST(RunList, KnowsPositions) {
  const RunList list = {{2, 4}, {7, 10}};
  EXPECT_EQ(position_of(list, 3), 1u);
  EXPECT_EQ(position_of(list, 7), 2u);
  EXPECT_EQ(at_positions(list, {{1, 3}, {4, 5}}), (RunList{{3, 4}, {7, 8}, {9, 10}}));
  EXPECT_EQ(positions_of({{3, 4}, {7, 8}, {9, 10}}, list), (RunList{{1, 3}, {4, 5}}));
}

TEST(RunList, IsASet) {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    const Indices a = random_indices(random, 40), b = random_indices(random, 40);
    Indices both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    const RunList list = run_list(a), common = intersection(list, run_list(b));
    ASSERT_EQ(common, run_list(both)) << "seed " << seed;
    ASSERT_EQ(count(list), a.size()) << "seed " << seed;
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_EQ(position_of(list, a[i]), i) << "seed " << seed;
    Indices positions;
    for (std::size_t i = 0; i < a.size(); ++i)
      if (std::binary_search(b.begin(), b.end(), a[i])) positions.push_back(i);
    ASSERT_EQ(positions_of(common, list), run_list(positions)) << "seed " << seed;
    ASSERT_EQ(at_positions(list, run_list(positions)), common) << "seed " << seed;
  }
}

}  // namespace
}  // namespace merak
