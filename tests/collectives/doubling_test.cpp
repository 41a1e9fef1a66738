#include <gtest/gtest.h>

#include "collectives/doubling_all_gather.h"
#include "collectives/doubling_all_reduce.h"
#include "collectives/kernels.h"
#include "harness.h"
#include "steps.h"

namespace merak {
namespace {

TEST(DoublingAllReduce, OfTwo) {  // both compute 0's + 1's, in this order
  EXPECT_EQ(doubling_all_reduce({0, 1}, 0, 8).steps, (Steps{send(1, out(), 8), receive(1, scratch(), 8),  //
                                                            complete(out(), scratch(), 8, {0, 1})}));
  EXPECT_EQ(doubling_all_reduce({0, 1}, 1, 8).steps,
            (Steps{send(0, out(), 8), receive(0, scratch(), 8),  //
                   complete(scratch(), out(), 8, {0, 1}), copy(out(), scratch(), 8, {2})}));
}

TEST(DoublingAllReduce, OfThreeGivesTheExtraRankTheResult) {
  EXPECT_EQ(doubling_all_reduce({0, 1, 2}, 2, 8).steps, (Steps{send(0, out(), 8), receive(0, out(), 8)}));
  EXPECT_EQ(doubling_all_reduce({0, 1, 2}, 0, 8).steps,
            (Steps{receive(2, scratch(), 8), reduce(out(), scratch(), 8, {0}),  //
                   send(1, out(), 8, {1}), receive(1, scratch(0, kScratch + 1), 8),
                   complete(out(), scratch(0, kScratch + 1), 8, {1, 2, 3}),  //
                   send(2, out(), 8, {4})}));
}

TEST(DoublingAllGather, OfThree) {  // in round 1 rank 0 has 0 and 1, and sends only what rank 1 lacks: its own
  EXPECT_EQ(doubling_all_gather(0, 3, 4, true).steps, (Steps{send(2, out(0), 4), receive(1, out(4), 4),  //
                                                             send(1, out(0), 4, {1}), receive(2, out(8), 4)}));
}

TEST(DoublingAllGather, SendsARunThatWrapsInTwo) {  // rank 3 of 4 has 3 and 0 after round 0
  const Program program = doubling_all_gather(3, 4, 4, true);
  EXPECT_EQ(program.steps[2], send(1, out(12), 4, {1}));
  EXPECT_EQ(program.steps[3], send(1, out(0), 4, {1}));
}

// Every rank's bits, for operands whose sum depends on the order and whose NaNs differ.
TEST(AllReduce, GivesEveryRankTheSameBits) {
  for (const Topology& topology :
       {uniform_topology(3), uniform_topology(7), uniform_topology(8), uniform_topology(3, 2)})
    for (Reduction reduction : {Reduction::kSum, Reduction::kAverage, Reduction::kMin, Reduction::kMax})
      for (const auto& [algorithm, programs] :
           programs_by_algorithm({.kind = OperationKind::kAllReduce, .bytes = 400, .element_bytes = 4}, topology)) {
        std::mt19937 random(1);
        std::vector<Memory> memory(programs.size());
        for (Memory& mine : memory) {
          mine.output.resize(400);
          for (std::byte& byte : mine.output) byte = static_cast<std::byte>(random());
        }
        play(programs, memory, make_reducer(DType::kFloat32, reduction, topology.size()), 3);
        for (const Memory& mine : memory) ASSERT_EQ(mine.output, memory[0].output) << algorithm;
      }
}

}  // namespace
}  // namespace merak
