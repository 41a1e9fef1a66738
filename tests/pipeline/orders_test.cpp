// The compute orders of all kinds, as tables. tests/pipeline/test_orders.py compares them with torch's.

#include <gtest/gtest.h>

#include "pipeline/eager.h"
#include "pipeline/gpipe.h"
#include "pipeline/interleaved.h"
#include "pipeline/lists.h"
#include "pipeline/looped_bfs.h"
#include "pipeline/one_f_one_b.h"
#include "pipeline/rounds.h"
#include "pipeline/shifted.h"
#include "pipeline/zbv.h"
#include "pipeline/zero_bubble.h"

namespace merak::pipeline {
namespace {

TEST(Orders, Gpipe) {
  EXPECT_EQ(lists_of(gpipe(2, 3)), (Lists{"0F0 0F1 0F2 0B0 0B1 0B2",  //
                                          "1F0 1F1 1F2 1B0 1B1 1B2"}));
}

TEST(Orders, OneForwardOneBackward) {
  EXPECT_EQ(lists_of(one_f_one_b(3, 4)), (Lists{"0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3",  //
                                                "1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3", "2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3"}));
}

TEST(Orders, OneForwardOneBackwardOfFewMicrobatchesWarmsUpWithAll) {
  EXPECT_EQ(lists_of(one_f_one_b(3, 2)), (Lists{"0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1", "2F0 2B0 2F1 2B1"}));
}

TEST(Orders, EagerWarmsUpTwiceAsLong) {
  EXPECT_EQ(lists_of(eager(2, 5)), (Lists{"0F0 0F1 0F2 0B0 0F3 0B1 0F4 0B2 0B3 0B4",  //
                                          "1F0 1B0 1F1 1B1 1F2 1B2 1F3 1B3 1F4 1B4"}));
}

TEST(Orders, DelayedWeightsFollowTheirInputs) {
  EXPECT_EQ(lists_of(with_delayed_weights(eager(2, 2))), (Lists{"0F0 0F1 0I0 0W0 0I1 0W1", "1F0 1I0 1W0 1F1 1I1 1W1"}));
}

TEST(Orders, ShiftedHasItsThirdForwardBeforeTheFirstBackward) {
  EXPECT_EQ(lists_of(shifted(3, 5)),
            (Lists{"0F0 0F1 0F2 0B0 0F3 0B1 0F4 0B2 0B3 0B4",  //
                   "1F0 1F1 1F2 1B0 1B1 1F3 1B2 1F4 1B3 1B4", "2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3 2F4 2B4"}));
}

TEST(Orders, ShiftedOfFewMicrobatchesIsOneForwardOneBackward) {
  for (auto [stages, microbatches] : std::vector<std::pair<int, int>>{{2, 3}, {5, 4}, {1, 8}})
    EXPECT_EQ(shifted(stages, microbatches), one_f_one_b(stages, microbatches));
}

TEST(Orders, LoopedBfs) {
  EXPECT_EQ(lists_of(looped_bfs(4, 2, 2)), (Lists{"0F0 0F1 2F0 2F1 2B1 2B0 0B1 0B0",  //
                                                  "1F0 1F1 3F0 3F1 3B1 3B0 1B1 1B0"}));
}

TEST(Orders, RoundsGoThroughAllStagesOfARank) {
  const RoundOrder order = in_rounds(0, 4, 2, 5, 2);  // 2 rounds, of 3 and 2 micro-batches
  Schedule both;
  both.ranks = {order.forwards, order.backwards};
  EXPECT_EQ(lists_of(both),
            (Lists{"0F0 0F1 0F2 2F0 2F1 2F2 0F3 0F4 2F3 2F4", "2B0 2B1 2B2 0B0 0B1 0B2 2B3 2B4 0B3 0B4"}));
  EXPECT_EQ(order.warm_up, 3 + 2);
}

TEST(Orders, Interleaved) {
  EXPECT_EQ(lists_of(interleaved(4, 2, 4)), (Lists{"0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3",
                                                   "1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3"}));
}

TEST(Orders, ZeroBubbleLetsAsManyWeightsWaitAsItsRankSays) {
  EXPECT_EQ(lists_of(zero_bubble(2, 2, 3)), (Lists{"0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2",  //
                                                   "1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2"}));
}

TEST(Orders, Zbv) {
  EXPECT_EQ(lists_of(zbv(2, 3)), (Lists{"0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0I0 0W0 3F2 3I2 3W2 0I1 0W1 0I2 0W2",
                                        "1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1I1 2I2 1I2 1W1 2W2 1W2"}));
}

TEST(Orders, ZbvOfFewMicrobatchesLeavesTheOthersOut) {
  EXPECT_EQ(lists_of(zbv(2, 1)), (Lists{"0F0 3F0 3I0 3W0 0I0 0W0", "1F0 2F0 2I0 2W0 1I0 1W0"}));
}

}  // namespace
}  // namespace merak::pipeline
