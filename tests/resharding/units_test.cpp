#include "resharding/units.h"

#include <gtest/gtest.h>

#include "resharding/oracle.h"

namespace merak {
namespace {

Layout of_ranks(std::vector<int> ranks, Placement placement) {
  return {.mesh_shape = {static_cast<int>(ranks.size())}, .ranks = std::move(ranks), .placements = {placement}};
}

TEST(Units, AreWhatTilesHaveInCommon) {  // rows 0-1, 2-3, 4 to rows 0-2, 3-4
  const MoveUnits move = units_of({{5}, DType::kFloat32, of_ranks({0, 1, 2}, shard(0)), of_ranks({3, 4}, shard(0))});
  EXPECT_EQ(move.units, (std::vector<Unit>{{0, 0, 2}, {1, 0, 1}, {1, 1, 1}, {2, 1, 1}}));
  EXPECT_EQ(move.region(move.units[1]), (Region{{{{2, 3}}}}));
  EXPECT_EQ(move.contributors_of(move.units[2]), (Contributors{{1}}));
  EXPECT_EQ(move.receivers_of(move.units[2]), (std::vector<int>{4}));
}

TEST(Units, OfStridedShardsHaveSeveralRuns) {
  const MoveUnits move =
      units_of({{8}, DType::kFloat32, of_ranks({0, 1}, strided_shard(0, 2)), of_ranks({2}, replicate())});
  ASSERT_EQ(move.units.size(), 2u);
  EXPECT_EQ(move.region(move.units[0]), (Region{{{{0, 2}, {4, 6}}}}));
  EXPECT_EQ(positions_of(move.region(move.units[1]), move.source.region(1)), (Region{{{{0, 4}}}}));
}

TEST(Units, OfAScalarIsOne) {
  const MoveUnits move = units_of({{}, DType::kFloat32, of_ranks({0, 1}, replicate()), of_ranks({2}, replicate())});
  EXPECT_EQ(move.units, (std::vector<Unit>{{0, 0, 1}}));
  EXPECT_EQ(move.contributors_of(move.units[0]), (Contributors{{0, 1}}));
}

TEST(Units, OfNothingAreNone) {
  EXPECT_TRUE(units_of({{3, 0}, DType::kFloat32, of_ranks({0}, shard(0)), of_ranks({1}, shard(1))}).units.empty());
}

TEST(Units, OfAPartialHaveAContributorForEachOfItsCoordinates) {
  const Layout source{
      .mesh_shape = {2, 2}, .ranks = {0, 1, 2, 3}, .placements = {replicate(), partial(Reduction::kSum)}};
  const MoveUnits move = units_of({{4}, DType::kFloat32, source, of_ranks({4}, replicate())});
  EXPECT_EQ(move.contributors_of(move.units[0]), (Contributors{{0, 2}, {1, 3}}));
  EXPECT_EQ(move.reduction, Reduction::kSum);
  EXPECT_EQ(move.divisor, 1u);
}

TEST(Units, OfAveragesAreSumsThatAreDivided) {
  const Layout source{.mesh_shape = {2, 3},
                      .ranks = {0, 1, 2, 3, 4, 5},
                      .placements = {partial(Reduction::kSum), partial(Reduction::kAverage)}};
  const MoveUnits move = units_of({{4}, DType::kFloat32, source, of_ranks({0}, replicate())});
  EXPECT_EQ(move.reduction, Reduction::kSum);
  EXPECT_EQ(move.divisor, 3u);
}

TEST(Units, ToAPartialSumLeaveZerosElsewhere) {
  const auto to = [](Reduction reduction) {
    return units_of({{4},
                     DType::kFloat32,
                     of_ranks({0}, replicate()),
                     {.mesh_shape = {2, 2}, .ranks = {1, 2, 3, 4}, .placements = {partial(reduction), shard(0)}}});
  };
  EXPECT_EQ(to(Reduction::kSum).receivers, (std::vector<std::vector<int>>{{1}, {2}}));
  EXPECT_EQ(to(Reduction::kSum).zeroed, (std::vector<int>{3, 4}));
  for (Reduction all : {Reduction::kAverage, Reduction::kMin, Reduction::kMax}) {
    EXPECT_EQ(to(all).receivers, (std::vector<std::vector<int>>{{1, 3}, {2, 4}}));
    EXPECT_TRUE(to(all).zeroed.empty());
  }
}

// Each rank of both meshes, element by element: what it holds, what it gets.
TEST(Units, OfRandomMovesAreWhatSourceAndTargetHaveInCommon) {
  for (unsigned seed = 0; seed < 1000; ++seed) {
    RandomMoves random(seed, 12);
    const Move move = random.move();
    const MoveUnits units = units_of(move);
    std::map<std::size_t, std::set<int>> holders, receivers, held, wanted;  // by element
    for (const Unit& unit : units.units)
      for (std::size_t element : elements_of(units.region(unit), move.shape)) {
        ASSERT_EQ(holders.count(element), 0u) << "element " << element << " is in two units, seed " << seed;
        for (const auto& replicas : units.contributors_of(unit))
          holders[element].insert(replicas.begin(), replicas.end());
        receivers[element].insert(units.receivers_of(unit).begin(), units.receivers_of(unit).end());
      }
    const std::set<int> zeroed(units.zeroed.begin(), units.zeroed.end());
    for (std::size_t place = 0; place < move.source.ranks.size(); ++place)
      for (std::size_t element : elements_of(held_by_place(move.source, move.shape, place), move.shape))
        held[element].insert(move.source.ranks[place]);
    for (std::size_t place = 0; place < move.target.ranks.size(); ++place)
      for (std::size_t element : elements_of(held_by_place(move.target, move.shape, place), move.shape))
        if (zeroed.count(move.target.ranks[place]) == 0) wanted[element].insert(move.target.ranks[place]);
    ASSERT_EQ(holders, held) << "seed " << seed;
    ASSERT_EQ(receivers, wanted) << "seed " << seed;
  }
}

}  // namespace
}  // namespace merak
