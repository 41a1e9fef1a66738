#include "pipeline/schedule.h"

#include <gtest/gtest.h>

#include "pipeline/lists.h"

namespace merak::pipeline {
namespace {

TEST(Placement, GoesRoundTheRanksOrDownAndUp) {
  EXPECT_EQ(loop_placement(6, 3), (std::vector<int>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(v_placement(3), (std::vector<int>{0, 1, 2, 2, 1, 0}));
}

TEST(Schedule, RefusesSizesThatCannotBe) {
  EXPECT_NO_THROW(check_sizes(6, 3, 1));
  for (auto [stages, ranks, microbatches] : std::vector<std::tuple<int, int, int>>{{0, 1, 1},
                                                                                   {4, 0, 1},
                                                                                   {4, 3, 1},
                                                                                   {2, 4, 1},
                                                                                   {4, 4, 0},
                                                                                   {4, 4, -1},
                                                                                   {kMostStages + 1, 1, 1},
                                                                                   {1, 1, kMostMicrobatches + 1},
                                                                                   {kMostStages, 1, kMostMicrobatches}})
    EXPECT_THROW(check_sizes(stages, ranks, microbatches), std::invalid_argument);
}

TEST(Schedule, SortsItsEdgesAndHasEachOnce) {
  EXPECT_EQ(checked_edges({{1, 2}, {0, 2, false}, {0, 1}, {0, 2}, {1, 2}}, 3),
            (std::vector<Edge>{{0, 1}, {0, 2}, {1, 2}}));
  for (const Edge& wrong : {Edge{1, 1}, Edge{2, 1}, Edge{0, 3}, Edge{-1, 1}})
    EXPECT_THROW(checked_edges({wrong}, 3), std::invalid_argument);
}

TEST(Schedule, KnowsWhichForwardsKeepOnlyInputs) {
  const Schedule schedule = listed({"0F0 0F1 0R1 0B1 0B0", "1F0 1B0 1F1 1B1"});
  EXPECT_EQ(checkpointed(schedule), (std::vector<bool>{false, true, false, false}));
}

TEST(Schedule, SaysWhereItIsOutOfBounds) {
  const auto expect = [](const std::string& text, auto change) {
    Schedule schedule = listed({"0F0 0B0", "1F0 1RECV_B0 1B0"});
    change(schedule);
    try {
      check_bounds(schedule);
      FAIL() << text;
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  expect("rank 1, position 1, 1RECV_B0: there is no stage 2 at the other end", [](Schedule&) {});
  expect("rank 0, position 1, 7B0: there are 2 stages", [](Schedule& s) { s.ranks[0][1].stage = 7; });
  expect("rank 0, position 0, 1F0: the stage is on rank 1", [](Schedule& s) { s.ranks[0][0].stage = 1; });
  expect("rank 0, position 0, 0F9: there are 1 micro-batches", [](Schedule& s) { s.ranks[0][0].microbatch = 9; });
  expect("a stage is on rank 5 of 2", [](Schedule& s) { s.rank_of_stage[0] = 5; });
}

}  // namespace
}  // namespace merak::pipeline
