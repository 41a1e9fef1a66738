#include "resharding/tiling.h"

#include <gtest/gtest.h>

#include "resharding/oracle.h"

namespace merak {
namespace {

struct OfTorch {
  std::size_t extent;
  std::vector<int> mesh_shape;
  std::vector<Placement> placements;
  std::vector<Indices> held;  // by rank
};

// What torch 2.15 says (torch.distributed.tensor._utils._get_shard_size_and_offsets).
std::vector<OfTorch> of_torch() {
  return {
      {14,
       {2, 3, 1},
       {replicate(), strided_shard(0, 2), strided_shard(0, 5)},
       {{0, 1, 2, 7, 8, 9}, {3, 4, 5, 10, 11, 12}, {6, 13}, {0, 1, 2, 7, 8, 9}, {3, 4, 5, 10, 11, 12}, {6, 13}}},
      {22,
       {1, 1, 4},
       {shard(0), shard(0), strided_shard(0, 1)},
       {{0, 1, 2, 3, 4, 5}, {6, 7, 8, 9, 10, 11}, {12, 13, 14, 15, 16, 17}, {18, 19, 20, 21}}},
      {12, {3}, {strided_shard(0, 2)}, {{0, 1, 6, 7}, {2, 3, 8, 9}, {4, 5, 10, 11}}},
      {17, {1, 2}, {replicate(), strided_shard(0, 2)}, {{0, 1, 2, 3, 4, 9, 10, 11, 12}, {5, 6, 7, 8, 13, 14, 15, 16}}},
      {15, {2, 1}, {strided_shard(0, 3), shard(0)}, {{0, 1, 2, 5, 6, 7, 10, 11, 12}, {3, 4, 8, 9, 13, 14}}},
      {11, {3, 1}, {strided_shard(0, 3), replicate()}, {{0, 1, 4, 5, 8}, {2, 3, 6, 7, 9}, {10}}},
      {20, {4}, {strided_shard(0, 2)}, {{0, 1, 2, 10, 11, 12}, {3, 4, 5, 13, 14, 15}, {6, 7, 8, 16, 17, 18}, {9, 19}}},
      {7,
       {4, 1, 1},
       {replicate(), strided_shard(0, 5), replicate()},
       {{0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}}},
      {4, {3}, {strided_shard(0, 1)}, {{0, 1}, {2, 3}, {}}},
      {16,
       {2, 1, 3},
       {shard(0), strided_shard(0, 3), shard(0)},
       {{0, 1, 2}, {3, 4, 5}, {6, 7}, {8, 9, 10}, {11, 12, 13}, {14, 15}}},
      {14,
       {2, 1, 2},
       {shard(0), strided_shard(0, 2), strided_shard(0, 5)},
       {{0, 2, 4, 6}, {1, 3, 5}, {7, 9, 11, 13}, {8, 10, 12}}},
      {17, {4}, {strided_shard(0, 3)}, {{0, 1, 6, 7, 12, 13}, {2, 3, 8, 9, 14, 15}, {4, 5, 10, 11, 16}, {}}},
      {8, {3}, {strided_shard(0, 2)}, {{0, 1, 4, 5}, {2, 3, 6, 7}, {}}},
      {4, {2, 1}, {replicate(), strided_shard(0, 3)}, {{0, 1, 2, 3}, {0, 1, 2, 3}}},
  };
}

Layout layout(std::vector<int> mesh_shape, std::vector<Placement> placements) {
  Layout layout{.mesh_shape = std::move(mesh_shape), .ranks = {}, .placements = std::move(placements)};
  int size = 1;
  for (int extent : layout.mesh_shape) size *= extent;
  for (int rank = 0; rank < size; ++rank) layout.ranks.push_back(rank);
  return layout;
}

TEST(Tiling, CutsAsTorchDoes) {
  for (const OfTorch& one : of_torch()) {
    const Tiling tiles = tiling(layout(one.mesh_shape, one.placements), {one.extent});
    for (std::size_t rank = 0; rank < one.held.size(); ++rank)
      EXPECT_EQ(indices_of(tiles.region(tile_of(tiles, static_cast<int>(rank))).dims[0]), one.held[rank])
          << one.extent << " indices, rank " << rank;
  }
}

TEST(Tiling, PutsReplicasTogether) {
  const Tiling tiles = tiling(layout({2, 3}, {replicate(), shard(0)}), {4});
  EXPECT_EQ(tiles.contributors, (std::vector<Contributors>{{{0, 3}}, {{1, 4}}, {{2, 5}}}));
  EXPECT_EQ(tiles.parts, (std::vector<std::vector<RunList>>{{{{0, 2}}, {{2, 4}}, {}}}));
}

TEST(Tiling, KeepsContributorsOfAPartialApart) {
  const Tiling tiles = tiling(layout({2, 2, 2}, {partial(Reduction::kSum), shard(0), replicate()}), {4});
  EXPECT_EQ(tiles.contributors, (std::vector<Contributors>{{{0, 1}, {4, 5}}, {{2, 3}, {6, 7}}}));
}

TEST(Tiling, NumbersTilesRowMajorWhateverTheMesh) {  // the mesh's first dimension cuts the tensor's last
  const Tiling tiles = tiling(layout({2, 3}, {shard(1), shard(0)}), {3, 2});
  EXPECT_EQ(tile_of(tiles, 1), 2u);  // coordinate (0, 1): row 1, column 0
  EXPECT_EQ(tiles.region(2), (Region{{{{1, 2}}, {{0, 1}}}}));
  EXPECT_EQ(tiles.part_of(5, 0), 2u);
  EXPECT_EQ(tiles.part_of(5, 1), 1u);
  EXPECT_EQ(tile_of(tiles, 6), tiles.tiles());
}

TEST(Tiling, OfAScalarIsOneTile) {
  const Tiling tiles = tiling(layout({2}, {replicate()}), {});
  EXPECT_EQ(tiles.tiles(), 1u);
  EXPECT_EQ(tiles.region(0).elements(), 1u);
}

TEST(Tiling, OfRandomLayoutsIsWhatPlacementsMean) {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    RandomMoves random(seed, 16);
    const Move move = random.move();
    const Tiling tiles = tiling(move.source, move.shape);
    for (std::size_t place = 0; place < move.source.ranks.size(); ++place) {
      const Region region = tiles.region(tile_of(tiles, move.source.ranks[place]));
      const std::vector<Indices> held = held_by_place(move.source, move.shape, place);
      for (std::size_t dim = 0; dim < held.size(); ++dim)
        ASSERT_EQ(indices_of(region.dims[dim]), held[dim]) << "seed " << seed << ", place " << place;
    }
  }
}

}  // namespace
}  // namespace merak
