#include "resharding/layout.h"

#include <gtest/gtest.h>

#include <functional>

namespace merak {
namespace {

Move good() {
  return {.shape = {6, 4},
          .dtype = DType::kFloat32,
          .source = {.mesh_shape = {2, 2}, .ranks = {0, 3, 1, 2}, .placements = {shard(0), partial(Reduction::kSum)}},
          .target = {.mesh_shape = {3}, .ranks = {5, 4, 0}, .placements = {shard(1)}}};
}

std::string refusal(const Move& move) {
  try {
    check_move(move, 6, "weight");
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

TEST(Layout, ThatIsSoundIsTaken) { EXPECT_EQ(refusal(good()), ""); }

TEST(Layout, ThatIsNotSoundIsRefusedWithTheReason) {
  const std::vector<std::pair<std::function<void(Move&)>, std::string>> cases = {
      {[](Move& m) { m.source.ranks[1] = 0; }, "weight, source: the mesh names rank 0 twice"},
      {[](Move& m) { m.target.ranks[1] = 6; }, "weight, target: rank 6 is not in the group, which has ranks 0 to 5"},
      {[](Move& m) { m.target.ranks[1] = -1; }, "weight, target: rank -1 is not in the group, which has ranks 0 to 5"},
      {[](Move& m) {
         m.source.mesh_shape = {2, 3};
       },
       "weight, source: the mesh's shape does not hold its 4 ranks"},
      {[](Move& m) {
         m.source.mesh_shape = {4, 0};
       },
       "weight, source: a mesh dimension of size 0"},
      {[](Move& m) { m.target.placements = {}; },
       "weight, target: 0 placements for a mesh of 1 dimensions: give one for each"},
      {[](Move& m) { m.target.placements = {shard(2)}; },
       "weight, target: shard of dimension 2 of a tensor of 2 dimensions"},
      {[](Move& m) { m.target.placements = {shard(-1)}; },
       "weight, target: shard of dimension -1 of a tensor of 2 dimensions"},
      {[](Move& m) { m.source.placements[0] = strided_shard(0, 0); },
       "weight, source: split factor 0: expected 1 to 65536"},
      {[](Move& m) { m.source.placements[0] = partial(Reduction::kMax); },
       "weight, source: two kinds of partial in one layout; only sum and avg go together"},
      {[](Move& m) { m.source.placements[1] = partial(Reduction::kBitXor); },
       "weight, source: partial(xor): expected sum, avg, min, max or product"},
      {[](Move& m) { m.target.placements = {partial(Reduction::kMax)}; },
       "weight, target: a partial of one kind cannot become one of another: ask for replicate first"},
      {[](Move& m) { m.target.placements = {partial(Reduction::kProduct)}; },
       "weight, target: a value has no factors for partial(product): ask for replicate instead"},
      {[](Move& m) {
         m.shape = {std::size_t{1} << 30, std::size_t{1} << 30};
       },
       "weight: 2^62 bytes or more"}};
  for (const auto& [spoil, reason] : cases) {
    Move move = good();
    spoil(move);
    EXPECT_EQ(refusal(move), reason);
  }
}

TEST(Layout, MayMixSumAndAverage) {
  Move move = good();
  move.source.placements = {partial(Reduction::kAverage), partial(Reduction::kSum)};
  move.target.placements = {partial(Reduction::kAverage)};
  EXPECT_EQ(refusal(move), "");
}

TEST(Layout, MayBeOfAnEmptyTensorHoweverWide) {
  Move move = good();
  move.shape = {std::size_t{1} << 62, 0, std::size_t{1} << 62};
  EXPECT_EQ(refusal(move), "");
}

}  // namespace
}  // namespace merak
