#include <gtest/gtest.h>

#include "collectives/direct_all_gather.h"
#include "collectives/direct_all_reduce.h"
#include "collectives/direct_gather.h"
#include "collectives/direct_reduce_scatter.h"
#include "collectives/direct_scatter.h"
#include "collectives/dissemination_barrier.h"
#include "steps.h"

namespace merak {
namespace {

constexpr std::size_t kLarge = 100 << 10;

TEST(DirectScatter, LetsLargeShardsLeaveTwoAtATime) {
  EXPECT_EQ(direct_scatter(1, 4, 1, kLarge, true).steps,
            (Steps{send(2, in(2 * kLarge), kLarge), send(3, in(3 * kLarge), kLarge), send(0, in(0), kLarge, {0})}));
  EXPECT_EQ(direct_scatter(3, 4, 1, kLarge, true).steps, (Steps{receive(1, out(), kLarge)}));
  EXPECT_EQ(direct_scatter(1, 4, 1, 8, false).steps,
            (Steps{send(2, in(16), 8), send(3, in(24), 8), send(0, in(0), 8), copy(out(), in(8), 8)}));
}

TEST(DirectGather, GrantsLargeShardsTwoAtATime) {
  EXPECT_EQ(direct_gather(1, 4, 1, kLarge, true).steps,
            (Steps{receive(2, out(2 * kLarge), kLarge), receive(3, out(3 * kLarge), kLarge),
                   receive(0, out(0), kLarge, {0})}));
  EXPECT_EQ(direct_gather(0, 4, 1, kLarge, true).steps, (Steps{send(1, in(), kLarge)}));
  EXPECT_EQ(direct_gather(0, 2, 0, 8, false).steps, (Steps{receive(1, out(8), 8), copy(out(0), in(), 8)}));
}

TEST(DirectAllGather, OfThree) {
  EXPECT_EQ(direct_all_gather(1, 3, 8, false).steps, (Steps{send(2, in(), 8), send(0, in(), 8), receive(0, out(0), 8),
                                                            receive(2, out(16), 8), copy(out(8), in(), 8)}));
}

TEST(DirectReduceScatter, AddsItsOwnLast) {
  EXPECT_EQ(direct_reduce_scatter(0, 3, 8).steps,
            (Steps{send(2, in(16), 8), send(1, in(8), 8), receive(1, out(), 8), receive(2, scratch(), 8),
                   reduce(out(), scratch(), 8, {2, 3}), complete(out(), in(0), 8, {4})}));
}

TEST(DirectAllReduce, OfTwo) {
  EXPECT_EQ(direct_all_reduce(0, 2, 8, 4).steps,
            (Steps{send(1, out(4), 4), receive(1, scratch(), 4), complete(out(0), scratch(), 4, {1}),
                   send(1, out(0), 4, {2}), receive(1, out(4), 4)}));
}

TEST(DirectAllReduce, OfFewerElementsThanRanks) {  // rank 2 has no shard: it gives and gets only
  EXPECT_EQ(direct_all_reduce(2, 3, 8, 4).steps,
            (Steps{send(0, out(0), 4), send(1, out(4), 4), receive(1, out(4), 4), receive(0, out(0), 4)}));
}

TEST(DisseminationBarrier, OfThree) {
  EXPECT_EQ(dissemination_barrier(0, 3).steps, (Steps{send(1, {}, 0), receive(2, {}, 0),  //
                                                      send(2, {}, 0, {1}), receive(1, {}, 0)}));
  EXPECT_TRUE(dissemination_barrier(0, 1).steps.empty());
}

}  // namespace
}  // namespace merak
