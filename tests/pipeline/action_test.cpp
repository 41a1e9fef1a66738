#include "pipeline/action.h"

#include <gtest/gtest.h>

namespace merak::pipeline {
namespace {

TEST(Action, IsWrittenAsTorchWritesIt) {
  for (const char* written : {"2F0", "0B12", "1I3", "1W3", "4R7", "1SEND_F0", "2RECV_F0", "2WAIT_F0", "2SEND_B5",
                              "1RECV_B5", "1WAIT_B5", "0REDUCE_GRAD", "0SEND_F3>2", "2RECV_F3>0", "5WAIT_B1>9"}) {
    const auto action = parse_action(written);
    ASSERT_TRUE(action) << written;
    EXPECT_EQ(text(*action), written);
  }
}

TEST(Action, HasTheNeighbourAtTheOtherEndUnlessItIsNamed) {
  EXPECT_EQ(parse_action("1SEND_F0")->peer, 2);
  EXPECT_EQ(parse_action("1RECV_F0")->peer, 0);
  EXPECT_EQ(parse_action("1SEND_B0")->peer, 0);
  EXPECT_EQ(parse_action("1RECV_B0")->peer, 2);
  EXPECT_EQ(parse_action("1SEND_F0>4")->peer, 4);
  EXPECT_EQ(text({.kind = ActionKind::kSendForward, .stage = 1, .microbatch = 0, .peer = 2}), "1SEND_F0");
  EXPECT_EQ(parse_action("1F0")->peer, -1);
}

TEST(Action, MovesWhatItsEndsSay) {
  const Message value{true, 1, 3, 5}, gradient{false, 1, 3, 5};
  EXPECT_EQ(message_of(*parse_action("1SEND_F5>3")), value);
  EXPECT_EQ(message_of(*parse_action("3RECV_F5>1")), value);
  EXPECT_EQ(message_of(*parse_action("3SEND_B5>1")), gradient);
  EXPECT_EQ(message_of(*parse_action("1WAIT_B5>3")), gradient);
  for (ActionKind kind : {ActionKind::kSendForward, ActionKind::kReceiveForward, ActionKind::kWaitForward})
    EXPECT_EQ(message_of(action_of(kind, value)), value);
  for (ActionKind kind : {ActionKind::kSendBackward, ActionKind::kReceiveBackward, ActionKind::kWaitBackward})
    EXPECT_EQ(message_of(action_of(kind, gradient)), gradient);
}

TEST(Action, IsNotReadFromWhatIsNone) {
  for (const char* none : {"",
                           "F0",
                           "1",
                           "1F",
                           "-1F0",
                           "1F-1",
                           "1f0",
                           "1X0",
                           "1F0 ",
                           " 1F0",
                           "1SEND_F",
                           "1SEND_F0>",
                           "1SEND_F0>x",
                           "1F0>2",
                           "0REDUCE_GRAD1",
                           "99999999999F0",
                           "1F99999999999",
                           "2147483647F0",
                           "1FF0",
                           "+1F0"})
    EXPECT_FALSE(parse_action(none)) << none;
}

}  // namespace
}  // namespace merak::pipeline
