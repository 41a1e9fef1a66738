#include "collectives/chain.h"

#include <gtest/gtest.h>

#include "collectives/chain_broadcast.h"
#include "collectives/chain_reduce.h"
#include "steps.h"

namespace merak {
namespace {

TEST(ChainBroadcast, OfTwoSegmentsFromRankTwoOfThree) {  // 2 -> 0 -> 1
  const std::vector<int> order = {2, 0, 1};
  EXPECT_EQ(chain_broadcast(order, 0, 10, 6).steps, (Steps{send(0, out(0), 6), send(0, out(6), 4)}));
  EXPECT_EQ(chain_broadcast(order, 1, 10, 6).steps, (Steps{receive(2, out(0), 6), send(1, out(0), 6, {0}),  //
                                                           receive(2, out(6), 4), send(1, out(6), 4, {2})}));
  EXPECT_EQ(chain_broadcast(order, 2, 10, 6).steps, (Steps{receive(0, out(0), 6), receive(0, out(6), 4)}));
}

TEST(ChainReduce, OfTwoSegmentsToRankTwoOfThree) {  // 1 -> 0 -> 2
  const std::vector<int> order = {1, 0, 2};
  EXPECT_EQ(chain_reduce(order, 0, 10, 6, false).steps, (Steps{send(0, in(0), 6), send(0, in(6), 4)}));
  EXPECT_EQ(chain_reduce(order, 1, 10, 6, false).steps,
            (Steps{receive(1, scratch(0), 6), reduce(scratch(0), in(0), 6, {0}), send(2, scratch(0), 6, {1}),  //
                   receive(1, scratch(6), 4), reduce(scratch(6), in(6), 4, {3}), send(2, scratch(6), 4, {4})}));
  EXPECT_EQ(chain_reduce(order, 2, 10, 6, false).steps,
            (Steps{receive(0, out(0), 6), complete(out(0), in(0), 6, {0}),  //
                   receive(0, out(6), 4), complete(out(6), in(6), 4, {2})}));
  EXPECT_EQ(chain_reduce(order, 2, 10, 6, true).steps,
            (Steps{receive(0, scratch(0), 6), complete(out(0), scratch(0), 6, {0}),  //
                   receive(0, scratch(6), 4), complete(out(6), scratch(6), 4, {2})}));
}

TEST(ChainReduce, UsesSlotsOverAndOver) {
  const std::size_t segment = 2 << 20;  // three slots
  const Program program = chain_reduce({0, 1, 2}, 1, 4 * segment, segment, false);
  EXPECT_EQ(program.scratch, (std::vector<std::size_t>{3 * segment}));
  EXPECT_EQ(program.steps[9], receive(0, scratch(0), segment, {2}));  // after the first segment has left
}

TEST(Chain, ApproachesTheWireAsTheMessageGrows) {
  const Costs costs;
  for (int hosts : {2, 4, 8}) {
    const std::size_t bytes = 1 << 30;
    EXPECT_LT(chain_seconds(uniform_topology(hosts), bytes, true, costs), 1.01 * bytes * costs.seconds_per_byte);
  }
}

TEST(Chain, HasTheBestSegment) {  // sqrt(m V / ((n - 2) b)), in whole elements
  const Costs costs{.seconds_per_byte = 1e-8, .per_message_s = 16e-6};
  EXPECT_EQ(chain_segment_bytes(uniform_topology(6), 40 << 20, 1, costs), 129526u);
  EXPECT_EQ(chain_segment_bytes(uniform_topology(6), 40 << 20, 16, costs), 129520u);
}

}  // namespace
}  // namespace merak
