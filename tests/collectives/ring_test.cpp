#include "collectives/ring.h"

#include <gtest/gtest.h>

#include "collectives/ring_all_gather.h"
#include "collectives/ring_all_reduce.h"
#include "collectives/ring_reduce_scatter.h"
#include "harness.h"
#include "steps.h"

namespace merak {
namespace {

const std::vector<int> kThree = {0, 1, 2};

TEST(RingAllGather, OfThree) {  // rank 1 sends its own shard, then rank 0's
  EXPECT_EQ(ring_all_gather({kThree, 1}, 10, 16, false).steps,
            (Steps{send(2, in(), 10), receive(0, out(0), 10),          //
                   send(2, out(0), 10, {1}), receive(0, out(20), 10),  //
                   copy(out(10), in(), 10)}));
}

TEST(RingAllGather, InPlaceOfTwoSegments) {
  EXPECT_EQ(
      ring_all_gather({kThree, 0}, 10, 6, true).steps,
      (Steps{send(1, out(0), 6), receive(2, out(20), 6), send(1, out(6), 4), receive(2, out(26), 4),  //
             send(1, out(20), 6, {1}), receive(2, out(10), 6), send(1, out(26), 4, {3}), receive(2, out(16), 4)}));
}

TEST(RingAllReduce, OfThree) {  // shards of 4, 4 and 2 bytes; rank 0 completes shard 1
  EXPECT_EQ(ring_all_reduce({kThree, 0}, 10, 2, 16).steps,
            (Steps{send(1, out(0), 4), receive(2, scratch(0), 2), reduce(out(8), scratch(0), 2, {1}),         //
                   send(1, out(8), 2, {2}), receive(2, scratch(4), 4), complete(out(4), scratch(4), 4, {4}),  //
                   send(1, out(4), 4, {5}), receive(2, out(0), 4),                                            //
                   send(1, out(0), 4, {7}), receive(2, out(8), 2)}));
}

TEST(RingReduceScatter, OfThree) {  // rank 0 passes shards 2 and 1 on and keeps its own
  EXPECT_EQ(ring_reduce_scatter({kThree, 0}, 4, 16).steps,
            (Steps{send(1, in(8), 4), receive(2, scratch(), 4), reduce(scratch(), in(4), 4, {1}),  //
                   send(1, scratch(), 4, {2}), receive(2, out(), 4), complete(out(), in(0), 4, {4})}));
}

TEST(Ring, FollowsTheOrderOfHosts) {
  const Program program = ring_all_gather({{0, 2, 1}, 1}, 10, 16, true);
  EXPECT_EQ(program.steps[0], send(1, out(20), 10));
  EXPECT_EQ(program.steps[1], receive(0, out(0), 10));
}

TEST(Ring, CutsAShardInFour) {
  EXPECT_EQ(ring_segment_bytes(1000, 8), 32768u);  // more than a shard: one segment
  EXPECT_EQ(ring_segment_bytes(1 << 19, 8), std::size_t{1} << 17);
  EXPECT_EQ(ring_segment_bytes(1 << 30, 8), std::size_t{1} << 18);
}

// A ring that reads ahead of its slots would wait for itself; one that has as many as in the text never does.
TEST(RingReduceScatter, NeverWaitsForItself) {
  for (int size : {3, 4, 5, 8}) {
    std::vector<Program> programs;
    std::vector<int> order(static_cast<std::size_t>(size));
    for (int rank = 0; rank < size; ++rank) order[rank] = rank;
    const std::size_t segment = 1 << 20, shard = 40 * segment;
    for (int rank = 0; rank < size; ++rank) programs.push_back(ring_reduce_scatter({order, rank}, shard, segment));
    EXPECT_NO_THROW(validate(programs, std::vector<BufferSizes>(programs.size(), {shard * size, shard})));
  }
}

}  // namespace
}  // namespace merak
