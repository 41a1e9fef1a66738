#include "pipeline/communication.h"

#include <gtest/gtest.h>

#include "pipeline/first_microbatches.h"
#include "pipeline/lists.h"
#include "pipeline/reduction.h"

namespace merak::pipeline {
namespace {

TEST(Communication, SendsAfterTheProducerAndWaitsBeforeTheConsumer) {
  const Schedule schedule = listed({"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"});
  EXPECT_EQ(lists_of(with_communication(schedule, schedule.edges, 0)),
            (Lists{"0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0WAIT_B0 0B0 0RECV_B1 0WAIT_B1 0B1",
                   "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0 1RECV_F1 1WAIT_F1 1F1 1B1 1SEND_B1"}));
}

TEST(Communication, PostsReceivesAsFarAheadAsAsked) {
  const Schedule schedule = listed({"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"});
  EXPECT_EQ(lists_of(with_communication(schedule, schedule.edges, 1)),
            (Lists{"0F0 0SEND_F0 0RECV_B0 0F1 0SEND_F1 0RECV_B1 0WAIT_B0 0B0 0WAIT_B1 0B1",
                   "1RECV_F0 1WAIT_F0 1F0 1RECV_F1 1B0 1SEND_B0 1WAIT_F1 1F1 1B1 1SEND_B1"}));
  EXPECT_EQ(lists_of(with_communication(schedule, schedule.edges, 100))[0],
            "0RECV_B0 0RECV_B1 0F0 0SEND_F0 0F1 0SEND_F1 0WAIT_B0 0B0 0WAIT_B1 0B1");
}

TEST(Communication, SendsStraightToTheStageThatNeedsIt) {  // and no gradient where there is none
  const Schedule schedule = listed({"0F0 0B0", "1F0 1B0", "2F0 2B0"});
  EXPECT_EQ(lists_of(with_communication(schedule, {{0, 1}, {1, 2}, {0, 2, false}}, 0)),
            (Lists{"0F0 0SEND_F0 0SEND_F0>2 0RECV_B0 0WAIT_B0 0B0",
                   "1RECV_F0 1WAIT_F0 1F0 1SEND_F0 1RECV_B0 1WAIT_B0 1B0 1SEND_B0",
                   "2RECV_F0>0 2RECV_F0 2WAIT_F0>0 2WAIT_F0 2F0 2B0 2SEND_B0"}));
}

TEST(Communication, IsNotNeededInsideARank) {
  const Schedule schedule = listed({"0F0 1F0 1B0 0B0"});
  EXPECT_EQ(with_communication(schedule, schedule.edges, 1), schedule);
}

TEST(Communication, SendsTheGradientBeforeTheWeights) {
  const Schedule schedule = listed({"0F0 0B0", "1F0 1I0 1W0"});
  EXPECT_EQ(lists_of(with_communication(schedule, schedule.edges, 0))[1], "1RECV_F0 1WAIT_F0 1F0 1I0 1SEND_B0 1W0");
}

TEST(Communication, StandsAroundPairsThatOverlap) {
  Schedule schedule = listed({"0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1"});
  schedule.ranks[1][1].overlaps_next = true;
  EXPECT_EQ(lists_of(with_communication(schedule, schedule.edges, 0))[1],
            "1RECV_F0 1WAIT_F0 1F0 1RECV_F1 1WAIT_F1 1F1 1B0 1SEND_B0 1B1 1SEND_B1");
}

TEST(Communication, ReceivesInTheOrderOfSending) {  // 0F1 arrives before 0F0, though it is needed later
  const Schedule schedule = listed({"0F1 0F0 0B0 0B1", "1F0 1B0 1F1 1B1"});
  const Schedule communicating = with_communication(schedule, schedule.edges, 0);
  EXPECT_EQ(lists_of(communicating)[1], "1RECV_F1 1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0 1WAIT_F1 1F1 1B1 1SEND_B1");
  EXPECT_TRUE(receives_as_sent(communicating));
  EXPECT_FALSE(receives_as_sent(listed({"0SEND_F1 0SEND_F0", "1RECV_F0 1RECV_F1"})));
}

TEST(Communication, PassesOverWhatNobodySends) {
  const Schedule schedule = with_communication(listed({"0B0", "1F0 1F1 1B1"}), chain(2), 0);
  EXPECT_EQ(lists_of(schedule)[1], "1RECV_F0 1WAIT_F0 1F0 1RECV_F1 1WAIT_F1 1F1 1B1 1SEND_B1");
}

TEST(Communication, IsRefusedTwice) {
  const Schedule once = with_communication(listed({"0F0 0B0", "1F0 1B0"}), chain(2));
  EXPECT_THROW(with_communication(once, chain(2)), std::invalid_argument);
  EXPECT_THROW(with_communication(listed({"0F0 0B0"}), {}, -1), std::invalid_argument);
}

TEST(FirstMicrobatches, KeepTheirOrder) {
  const Schedule schedule = listed({"0F0 0F1 0F2 0B0 0B2 0B1", "1F0 1B0 1F1 1F2 1B2 1B1"});
  EXPECT_EQ(lists_of(first_microbatches(schedule, 2)), (Lists{"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}));
  EXPECT_EQ(first_microbatches(schedule, 3), schedule);
  Schedule paired = schedule;
  paired.ranks[1][2].overlaps_next = true;  // 1F1 and 1F2
  EXPECT_FALSE(first_microbatches(paired, 2).ranks[1][2].overlaps_next);
  EXPECT_THROW(first_microbatches(schedule, 0), std::invalid_argument);
  EXPECT_THROW(first_microbatches(schedule, 4), std::invalid_argument);
}

TEST(Reduction, FollowsTheLastGradientAndItsSend) {
  const Schedule schedule = listed({"0F0 0F1 0B0 0B1", "1F0 1I0 1W0 1F1 1I1 1W1"});
  EXPECT_EQ(lists_of(with_reduction(schedule)),
            (Lists{"0F0 0F1 0B0 0B1 0REDUCE_GRAD", "1F0 1I0 1W0 1F1 1I1 1W1 1REDUCE_GRAD"}));
  const Schedule several = listed({"0F0 2F0 2B0 0B0", "1F0 3F0 3B0 1B0"});
  const Lists lists = lists_of(with_reduction(with_communication(several, several.edges, 0)));
  EXPECT_EQ(lists[1],
            "1RECV_F0 1WAIT_F0 1F0 1SEND_F0 3RECV_F0 3WAIT_F0 3F0 3B0 3SEND_B0 3REDUCE_GRAD 1RECV_B0 1WAIT_B0 1B0 "
            "1SEND_B0 1REDUCE_GRAD");
}

TEST(Reduction, IsThereOnce) {
  const Schedule once = with_reduction(listed({"0F0 0B0"}));
  EXPECT_EQ(with_reduction(once), once);
}

}  // namespace
}  // namespace merak::pipeline
