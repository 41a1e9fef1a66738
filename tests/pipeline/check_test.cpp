#include "pipeline/check.h"

#include <gtest/gtest.h>

#include "pipeline/lists.h"

namespace merak::pipeline {
namespace {

using Problems = std::vector<std::string>;

TEST(Check, AcceptsWhatIsRight) {
  EXPECT_EQ(check(listed({"0F0 0B0", "1F0 1B0"})), Problems{});
  EXPECT_EQ(check(listed({"0F0 0SEND_F0 0RECV_B0 0R0 0WAIT_B0 0B0 0REDUCE_GRAD",
                          "1RECV_F0 1WAIT_F0 1F0 1I0 1SEND_B0 1W0 1REDUCE_GRAD"})),
            Problems{});
}

TEST(Check, SaysWhatIsMissing) {
  EXPECT_EQ(check(listed({"0F0", "1B0 1F1 1I1", "2F0 2W0 2F1 2B1"})),
            (Problems{"rank 0: stage 0, micro-batch 0 has no B", "rank 0: stage 0, micro-batch 1 has no F",
                      "rank 1: stage 1, micro-batch 0 has no F", "rank 1: stage 1, micro-batch 1 has an I, but no W",
                      "rank 2: stage 2, micro-batch 0 has a W, but no I"}));
}

TEST(Check, SaysWhatIsThereTwice) {
  EXPECT_EQ(check(listed({"0F0 0B0 0F0"})),
            Problems{"rank 0, position 2, 0F0: it is there a second time, after position 0"});
  EXPECT_EQ(check(listed({"0F0 0B0 0I0 0W0"})),
            Problems{"rank 0: stage 0, micro-batch 0 has a B, and an I or W as well"});
}

TEST(Check, SaysWhatComesTooEarly) {
  EXPECT_EQ(check(listed({"0B0 0F0"})),
            Problems{"rank 0, position 0, 0B0: it comes before 0F0, at position 1, which it needs"});
  EXPECT_EQ(check(listed({"0F0 0B0 0R0"})),
            Problems{"rank 0, position 1, 0B0: it comes before 0R0, at position 2, which it needs"});
  EXPECT_EQ(check(listed({"0F0 0W0 0I0"})),
            Problems{"rank 0, position 1, 0W0: it comes before 0I0, at position 2, which it needs"});
  EXPECT_EQ(check(listed({"0F0 0REDUCE_GRAD 0B0"})),
            Problems{"rank 0, position 1, 0REDUCE_GRAD: it comes before 0B0, at position 2, which it needs"});
  EXPECT_EQ(check(listed({"1F0 0F0 1B0 0B0"})),
            Problems{"rank 0, position 0, 1F0: it comes before 0F0, at position 1, which it needs"});
}

TEST(Check, SaysWhatIsNotSentReceivedOrWaitedFor) {
  EXPECT_EQ(check(listed({"0F0 0RECV_B0 0WAIT_B0 0B0", "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0"})),
            Problems{"rank 0, position 0, 0F0: nothing sends its result to stage 1"});
  EXPECT_EQ(check(listed({"0F0 0SEND_F0 0B0", "1RECV_F0 1F0 1B0 1SEND_B0"})),
            (Problems{"rank 1, position 1, 1F0: nothing waits for what it needs of stage 0",
                      "rank 0, position 2, 0B0: nothing receives what it needs of stage 1",
                      "rank 0, position 2, 0B0: nothing waits for what it needs of stage 1"}));
  EXPECT_EQ(check(listed({"0F0 0SEND_F0 0WAIT_B0 0RECV_B0 0B0", "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0"})),
            Problems{"rank 0, position 2, 0WAIT_B0: it comes before 0RECV_B0, at position 3, which it needs"});
}

TEST(Check, SaysWhatCrossesNoEdge) {
  Schedule schedule = listed({"0F0 0SEND_F0 0RECV_B0 0WAIT_B0 0B0", "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0"});
  schedule.edges = {{0, 1, false}};
  EXPECT_EQ(check(schedule), (Problems{"rank 0, position 2, 0RECV_B0: nothing crosses ranks between stages 0 and 1",
                                       "rank 0, position 3, 0WAIT_B0: nothing crosses ranks between stages 0 and 1",
                                       "rank 1, position 4, 1SEND_B0: nothing crosses ranks between stages 0 and 1"}));
}

TEST(Check, FindsADeadlock) {  // each waits for a gradient of the other's before it gives its own
  EXPECT_EQ(check(listed({"0F0 0F1 0B1 0B0", "1F0 1B0 1F1 1B1"})), Problems{});
  EXPECT_EQ(check(listed({"0F0 0B0 0F1 0B1", "1F1 1B1 1F0 1B0"})),
            (Problems{"rank 0, position 1, 0B0: it waits for ever, as other ranks do: a deadlock",
                      "rank 1, position 0, 1F1: it waits for ever, as other ranks do: a deadlock"}));
}

TEST(Check, FindsADeadlockOfMessages) {
  const Problems problems = check(listed({"0F0 0RECV_B0 0WAIT_B0 0SEND_F0 0B0", "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0"}));
  EXPECT_EQ(problems, (Problems{"rank 0, position 2, 0WAIT_B0: it waits for ever, as other ranks do: a deadlock",
                                "rank 1, position 1, 1WAIT_F0: it waits for ever, as other ranks do: a deadlock"}));
}

TEST(Check, SaysSoMuchAndNoMore) { EXPECT_EQ(check(listed({"0F0 0F1 0F2 0F3"}), 2).size(), 2u); }

TEST(Check, ThrowsAllOfIt) {
  EXPECT_NO_THROW(expect_right(listed({"0F0 0B0"})));
  EXPECT_THROW(expect_right(listed({"0F0"})), std::invalid_argument);
}

}  // namespace
}  // namespace merak::pipeline
