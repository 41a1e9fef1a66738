#include "resharding/buckets.h"

#include <gtest/gtest.h>

#include "resharding/oracle.h"

namespace merak {
namespace {

Layout of_ranks(std::vector<int> ranks, Placement placement) {
  return {.mesh_shape = {static_cast<int>(ranks.size())}, .ranks = std::move(ranks), .placements = {placement}};
}

TEST(Buckets, HoldUnitsOfOneWayLargeElementsFirst) {
  const Layout source = of_ranks({0, 1}, shard(0)), target = of_ranks({2, 3}, shard(0));
  const MoveBatch batch = cut({{{8, 3}, DType::kBFloat16, source, target},
                               {{4}, DType::kFloat64, source, target},
                               {{8, 3}, DType::kFloat32, source, target}});
  EXPECT_EQ(batch.units.size(), 2u);  // the first and the last are cut alike
  const std::vector<Bucket> buckets = buckets_of(batch);
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_EQ(buckets[1].contributors, (Contributors{{1}}));
  EXPECT_EQ(buckets[1].receivers, (std::vector<int>{3}));
  EXPECT_EQ(buckets[1].units, (std::vector<UnitOfBatch>{{1, 1}, {2, 1}, {0, 1}}));
  EXPECT_EQ(buckets[1].bytes, 16u + 12 * 4 + 12 * 2);
  EXPECT_EQ(slices_of(batch, buckets[1], 16, 80), (std::vector<Slice>{{{2, 1}, 0, 12}, {{0, 1}, 0, 8}}));
}

TEST(Buckets, AreNotSharedByDtypesThatAreReduced) {
  const Layout source = of_ranks({0, 1}, partial(Reduction::kSum)), target = of_ranks({2}, replicate());
  EXPECT_EQ(buckets_of(cut({{{8}, DType::kInt32, source, target}, {{8}, DType::kFloat32, source, target}})).size(), 2u);
  EXPECT_EQ(buckets_of(cut({{{8}, DType::kInt32, source, target}, {{9}, DType::kInt32, source, target}})).size(), 1u);
}

TEST(Buckets, AreNotSharedByReductions) {
  const auto from = [](Reduction reduction) { return of_ranks({0, 1}, partial(reduction)); };
  const Layout target = of_ranks({2}, replicate());
  EXPECT_EQ(buckets_of(cut({{{8}, DType::kInt32, from(Reduction::kSum), target},
                            {{8}, DType::kInt32, from(Reduction::kAverage), target},
                            {{8}, DType::kInt32, from(Reduction::kMax), target}}))
                .size(),
            3u);
}

// However a payload is cut, the slices are all of it, element by element.
TEST(Buckets, OfRandomBatchesCanBeCut) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    RandomMoves random(seed, 8);
    std::vector<Move> moves;
    for (std::size_t i = random.draw(1, 6); i > 0; --i) moves.push_back(random.move());
    const MoveBatch batch = cut(moves);
    for (const Bucket& bucket : buckets_of(batch)) {
      std::vector<std::pair<UnitOfBatch, std::size_t>> whole, pieces;  // unit, element
      for (UnitOfBatch unit : bucket.units)
        for (std::size_t element = 0; element < batch.unit(unit).elements; ++element) whole.emplace_back(unit, element);
      for (std::size_t begin = 0, end = 0; begin < bucket.bytes; begin = end) {
        end = std::min(bucket.bytes, begin + kPayloadUnit * random.draw(1, 9));
        std::size_t bytes = 0;
        for (const Slice& slice : slices_of(batch, bucket, begin, end)) {
          for (std::size_t element = slice.begin; element < slice.end; ++element)
            pieces.emplace_back(slice.unit, element);
          bytes += (slice.end - slice.begin) * element_bytes(moves[slice.unit.tensor].dtype);
        }
        ASSERT_EQ(bytes, end - begin) << "seed " << seed;
      }
      ASSERT_TRUE(pieces == whole) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace merak
