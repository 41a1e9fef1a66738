#include "pipeline/recompute.h"

#include <gtest/gtest.h>

#include "pipeline/communication.h"
#include "pipeline/lists.h"

namespace merak::pipeline {
namespace {

TEST(Recompute, StandsBeforeTheBackwardsOfItsStages) {
  const Schedule schedule = listed({"0F0 0F1 0B0 0B1", "1F0 1I0 1W0 1F1 1I1 1W1"});
  EXPECT_EQ(lists_of(with_recompute(schedule, {true, false})),
            (Lists{"0F0 0F1 0R0 0B0 0R1 0B1", "1F0 1I0 1W0 1F1 1I1 1W1"}));
  EXPECT_EQ(lists_of(with_recompute(schedule, {false, true})),
            (Lists{"0F0 0F1 0B0 0B1", "1F0 1R0 1I0 1W0 1F1 1R1 1I1 1W1"}));
}

TEST(Recompute, IsRefusedTwiceAndForOtherStages) {
  const Schedule schedule = listed({"0F0 0B0"});
  EXPECT_THROW(with_recompute(schedule, {true, true}), std::invalid_argument);
  EXPECT_THROW(with_recompute(with_recompute(schedule, {true}), {true}), std::invalid_argument);
}

TEST(Recompute, WaitsForTheGradientUnlessItIsMovedBefore) {
  const Schedule schedule = with_recompute(listed({"0F0 0B0", "1F0 1B0"}), {true, true});
  const Schedule waiting = with_communication(schedule, schedule.edges, 0);
  EXPECT_EQ(lists_of(waiting), (Lists{"0F0 0SEND_F0 0RECV_B0 0WAIT_B0 0R0 0B0",  //
                                      "1RECV_F0 1WAIT_F0 1F0 1R0 1B0 1SEND_B0"}));
  EXPECT_EQ(lists_of(pre_recompute(waiting)), (Lists{"0F0 0SEND_F0 0RECV_B0 0R0 0WAIT_B0 0B0",  //
                                                     "1RECV_F0 1WAIT_F0 1F0 1R0 1B0 1SEND_B0"}));
}

TEST(Recompute, GoesBeforeAllWaitsOfABackward) {  // with two consumers
  Schedule schedule = with_recompute(listed({"0F0 0B0", "1F0 1B0", "2F0 2B0"}), {true, false, false});
  schedule = with_communication(schedule, {{0, 1}, {0, 2}, {1, 2}}, 0);
  EXPECT_EQ(lists_of(pre_recompute(schedule))[0],
            "0F0 0SEND_F0 0SEND_F0>2 0RECV_B0 0RECV_B0>2 0R0 0WAIT_B0 0WAIT_B0>2 0B0");
}

TEST(Recompute, IsDroppedFromTheLastStage) {
  EXPECT_EQ(lists_of(last_without_recompute(with_recompute(listed({"0F0 0B0", "1F0 1B0"}), {true, true}))),
            (Lists{"0F0 0R0 0B0", "1F0 1B0"}));
}

}  // namespace
}  // namespace merak::pipeline
