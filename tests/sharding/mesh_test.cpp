#include "sharding/mesh.h"

#include <gtest/gtest.h>

#include <random>

namespace merak::sharding {
namespace {

const Mesh kMesh = {{"dp", 2}, {"tp", 4}, {"odd", 3}};

TEST(Pieces, MergeWhatNeedNotBeApart) {
  EXPECT_EQ(canonical({{4, {1}}, {16, {}}}, kMesh), (Pieces{{64, {1}}}));
  EXPECT_EQ(canonical({{3, {}}, {16, {1}}}, kMesh), (Pieces{{3, {}}, {16, {1}}}));
  EXPECT_EQ(canonical({{5, {0}}, {16, {}}}, kMesh), (Pieces{{5, {0}}, {16, {}}}));  // no head may be cut
  EXPECT_EQ(canonical({{2, {0}}, {8, {1}}}, kMesh), (Pieces{{16, {0, 1}}}));
  EXPECT_EQ(canonical({{1, {}}, {8, {}}, {1, {}}}, kMesh), (Pieces{{8, {}}}));
}

TEST(Pieces, OfPartsThatAreDividedEvenly) {
  EXPECT_EQ(*split({{64, {1}}}, {{4}, {16}}, kMesh), (std::vector<Pieces>{{{4, {1}}}, {{16, {}}}}));
  EXPECT_EQ(*split({{64, {0, 1}}}, {{2}, {32}}, kMesh), (std::vector<Pieces>{{{2, {0}}}, {{32, {1}}}}));
  EXPECT_EQ(*split({{3, {}}, {16, {1}}}, {{3}, {16}}, kMesh), (std::vector<Pieces>{{{3, {}}}, {{16, {1}}}}));
}

TEST(Pieces, GoToThePartThatMayBeDivided) {
  const auto parts = split({{48, {1}}}, {{3, false}, {16}}, kMesh);
  ASSERT_TRUE(parts);
  EXPECT_EQ(join(*parts, kMesh), (Pieces{{3, {}}, {16, {1}}}));
}

TEST(Pieces, DoNotFitWhereNoneEnds) {
  EXPECT_FALSE(split({{3, {}}, {16, {1}}}, {{4}, {12}}, kMesh));
  EXPECT_FALSE(split({{6, {0}}}, {{4}}, kMesh));
}

TEST(Pieces, HaveChunksThatAreRoundedUp) {
  EXPECT_EQ(local_size({{5, {1}}, {16, {}}}, kMesh), 32);
  EXPECT_EQ(local_size({{5, {0, 1}}}, kMesh), 1);
  EXPECT_EQ(local_size({{7, {2}}}, kMesh), 3);
}

TEST(Pieces, SplitAndJoinedAreTheSame) {
  std::mt19937 random(11);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<Part> sizes;
    std::vector<Pieces> factors;
    std::vector<int> axes = {0, 1, 2};
    std::shuffle(axes.begin(), axes.end(), random);
    for (int i = 0; i < 3; ++i) {
      const auto size = static_cast<std::int64_t>(1 + random() % 9);
      sizes.push_back({size});
      const bool divided = size > 1 && random() % 2;
      factors.push_back(canonical({{size, divided ? Axes{axes[i]} : Axes{}}}, kMesh));
    }
    const Pieces whole = join(factors, kMesh);
    const auto again = split(whole, sizes, kMesh);
    ASSERT_TRUE(again) << "trial " << trial;
    EXPECT_EQ(join(*again, kMesh), whole) << "trial " << trial;
  }
}

}  // namespace
}  // namespace merak::sharding
