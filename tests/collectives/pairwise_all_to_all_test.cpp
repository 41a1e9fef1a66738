#include "collectives/pairwise_all_to_all.h"

#include <gtest/gtest.h>

#include "harness.h"
#include "steps.h"

namespace merak {
namespace {

TEST(PairwiseAllToAll, SendsASegmentWhenThatOfAWindowBeforeHasCome) {
  ASSERT_EQ(all_to_all_window(3), 3u);
  EXPECT_EQ(
      pairwise_all_to_all(0, {4, 4, 4}, {4, 4, 4}, 1).steps,
      (Steps{send(1, in(4), 1), receive(2, out(8), 1), send(2, in(8), 1), receive(1, out(4), 1), send(1, in(5), 1),
             receive(2, out(9), 1), send(2, in(9), 1), receive(1, out(5), 1), send(1, in(6), 1), receive(2, out(10), 1),
             send(2, in(10), 1), receive(1, out(6), 1), send(1, in(7), 1, {1}), receive(2, out(11), 1),
             send(2, in(11), 1, {3}), receive(1, out(7), 1), copy(out(0), in(0), 4)}));
}

TEST(PairwiseAllToAll, HasEnoughUnderWayForAnyNumberOfRanks) {
  for (int ranks = 2; ranks < 100; ++ranks) {
    const std::size_t window = all_to_all_window(ranks), cycle = kAllToAllSegment * (ranks - 1);
    EXPECT_GE(window * cycle, kAllToAllBytesUnderWay) << ranks;
    EXPECT_GE(window, 2u) << ranks;
  }
}

TEST(PairwiseAllToAll, LeavesOutPartsThatHaveEnded) {
  EXPECT_EQ(pairwise_all_to_all(0, {1, 2, 3}, {1, 0, 5}, 2).steps,
            (Steps{send(1, in(1), 2), receive(2, out(1), 2), send(2, in(3), 2),  //
                   receive(2, out(3), 2), send(2, in(5), 1),                     //
                   receive(2, out(5), 1), copy(out(0), in(0), 1)}));
}

TEST(PairwiseAllToAll, SendsSmallPartsAtOnce) {
  for (const Step& step : pairwise_all_to_all(2, {3, 3, 3}, {3, 3, 3}, 1).steps) EXPECT_TRUE(step.after.empty());
}

// Random splits, zeros among them, of many segments and of few.
TEST(PairwiseAllToAll, CarriesUnevenPartsInAnyOrderOfEvents) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const int size = 1 + seed % 7;
    std::vector<std::vector<std::size_t>> parts(size, std::vector<std::size_t>(size));
    for (auto& row : parts)
      for (std::size_t& bytes : row) bytes = random() % 3 == 0 ? 0 : random() % (seed % 2 ? 100 : 600'000);

    std::vector<Program> programs;
    std::vector<Memory> memory(size);
    for (int rank = 0; rank < size; ++rank) {
      CollectiveShape shape{.kind = OperationKind::kAllToAll, .send_bytes = parts[rank]};
      for (int from = 0; from < size; ++from) shape.receive_bytes.push_back(parts[from][rank]);
      const Choice choice = choose(shape, rank, uniform_topology(size));
      EXPECT_EQ(choice.algorithm, "pairwise all_to_all");
      programs.push_back(choice.program);
      for (int to = 0; to < size; ++to) memory[rank].input.resize(memory[rank].input.size() + parts[rank][to]);
      for (std::byte& byte : memory[rank].input) byte = static_cast<std::byte>(random());
      for (int from = 0; from < size; ++from)
        memory[rank].output.resize(memory[rank].output.size() + parts[from][rank]);
    }
    std::vector<Message> expected(size);
    for (int from = 0; from < size; ++from) {
      auto at = memory[from].input.begin();
      for (int to = 0; to < size; at += parts[from][to++])
        expected[to].insert(expected[to].end(), at, at + parts[from][to]);
    }
    ASSERT_NO_THROW(validate(programs, sizes_of(memory)));
    play(programs, memory, {}, seed);
    for (int rank = 0; rank < size; ++rank) ASSERT_EQ(memory[rank].output, expected[rank]);
  }
}

}  // namespace
}  // namespace merak
