// Tables of small programs and their rounds. All algorithms: tests/collectives/over_nccl_test.cpp.

#include "transport/nccl_rounds.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "transport/rounds_checks.h"
#include "transport/validate.h"

namespace merak {
namespace {

constexpr std::size_t kSegment = 100;

// `segments` segments from rank to rank, from 0 on.
std::vector<Program> chain(int size, int segments) {
  std::vector<Program> programs(size);
  for (int rank = 0; rank < size; ++rank)
    for (int i = 0; i < segments; ++i) {
      const Place place{kOutput, i * kSegment};
      std::vector<std::uint32_t> arrival;
      if (rank > 0) arrival = {programs[rank].receive(rank - 1, place, kSegment)};
      if (rank < size - 1) programs[rank].send(rank + 1, place, kSegment, arrival);
    }
  return programs;
}

std::uint32_t rounds_in(const std::vector<Rounds>& rounds) {
  std::uint32_t count = 0;
  for (const Rounds& mine : rounds)
    if (!mine.empty()) count = std::max(count, mine.back().number + 1);
  return count;
}

TEST(NcclRounds, NothingToDoNeedsNone) {
  EXPECT_EQ(nccl_rounds({}), std::vector<Rounds>());
  EXPECT_EQ(nccl_rounds(std::vector<Program>(2)), std::vector<Rounds>(2));
}

TEST(NcclRounds, AnExchangeIsOneGroup) {
  std::vector<Program> programs(2);
  for (int rank : {0, 1}) {
    programs[rank].send(1 - rank, {kInput, 0}, 8);
    programs[rank].receive(1 - rank, {kOutput, 0}, 8);
  }
  EXPECT_EQ(nccl_rounds(programs), (std::vector<Rounds>{{{0, {}, {0, 1}}}, {{0, {}, {0, 1}}}}));
}

TEST(NcclRounds, WorkStandsBetweenTheMessagesThatItComesBetween) {
  std::vector<Program> programs(2);
  const std::uint32_t copy = programs[0].copy({kOutput, 0}, {kInput, 0}, 8);
  const std::uint32_t send = programs[0].send(1, {kOutput, 0}, 8, {copy});
  programs[0].receive(1, {kOutput, 0}, 8, {send});
  const int scratch = programs[1].add_scratch(8);
  const std::uint32_t arrival = programs[1].receive(0, {scratch, 0}, 8);
  const std::uint32_t sum = programs[1].reduce({kOutput, 0}, {scratch, 0}, 8, {arrival}, true);
  programs[1].send(0, {kOutput, 0}, 8, {sum});
  EXPECT_EQ(nccl_rounds(programs), (std::vector<Rounds>{{{0, {0}, {1}}, {1, {}, {2}}}, {{0, {}, {0}}, {1, {1}, {2}}}}));
}

TEST(NcclRounds, AChainIsAPipeline) {
  for (int size : {2, 3, 5})
    for (int segments : {1, 4, 9}) {
      const std::vector<Program> programs = chain(size, segments);
      const std::vector<Rounds> rounds = nccl_rounds(programs, kSegment);
      expect_good_rounds(programs, rounds, kSegment);
      EXPECT_EQ(rounds_in(rounds), static_cast<std::uint32_t>(segments + size - 2));
    }
}

TEST(NcclRounds, ARouteTakesAsMuchAsItMay) {
  const std::vector<Program> programs = chain(2, 9);
  EXPECT_EQ(rounds_in(nccl_rounds(programs, 3 * kSegment)), 3u);
  EXPECT_EQ(rounds_in(nccl_rounds(programs, 3 * kSegment - 1)), 5u);
  EXPECT_EQ(rounds_in(nccl_rounds(programs, 1)), 9u) << "a message longer than the limit goes alone";
  EXPECT_EQ(rounds_in(nccl_rounds(programs, kRouteBytes)), 1u);
}

// Message 0 of the route can leave only after message 1 has come and been answered: issued as they become ready, not by
// number, they still meet.
TEST(NcclRounds, MessagesOfARouteMayOvertake) {
  std::vector<Program> programs(2);
  const std::uint32_t answer = programs[0].receive(1, {kOutput, 0}, 8);
  programs[0].send(1, {kOutput, 0}, 8, {answer});
  programs[0].send(1, {kInput, 0}, 16);
  programs[1].receive(0, {kOutput, 0}, 8);
  const std::uint32_t question = programs[1].receive(0, {kOutput, 8}, 16);
  programs[1].send(0, {kInput, 0}, 8, {question});
  ASSERT_NO_THROW(validate(programs, {{16, 8}, {8, 24}}));
  EXPECT_EQ(nccl_rounds(programs), (std::vector<Rounds>{{{0, {}, {2}}, {1, {}, {0}}, {2, {}, {1}}},
                                                        {{0, {}, {1}}, {1, {}, {2}}, {2, {}, {0}}}}));
}

TEST(NcclRounds, MessagesOfNoBytesAreDealtToo) {
  std::vector<Program> programs(2);
  programs[0].send(1, {}, 0);
  programs[0].send(1, {}, 0);
  programs[1].receive(0, {}, 0);
  programs[1].receive(0, {}, 0);
  EXPECT_EQ(nccl_rounds(programs, 0), (std::vector<Rounds>{{{0, {}, {0, 1}}}, {{0, {}, {0, 1}}}}));
}

TEST(NcclRounds, ACircleIsRefused) {
  std::vector<Program> programs(2);
  for (int rank : {0, 1}) {
    const std::uint32_t arrival = programs[rank].receive(1 - rank, {kOutput, 0}, 8);
    programs[rank].send(1 - rank, {kOutput, 0}, 8, {arrival});
  }
  EXPECT_THROW(nccl_rounds(programs), std::logic_error);
}

TEST(NcclRounds, AMessageWithoutItsOtherEndIsRefused) {
  std::vector<Program> programs(2);
  programs[0].send(1, {kOutput, 0}, 8);
  EXPECT_THROW(nccl_rounds(programs), std::logic_error);
  std::swap(programs[0], programs[1]);
  programs[1] = {};
  programs[0].receive(1, {kOutput, 0}, 8);
  EXPECT_THROW(nccl_rounds(programs), std::logic_error);
}

}  // namespace
}  // namespace merak
