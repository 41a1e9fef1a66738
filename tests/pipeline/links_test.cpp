#include "pipeline/links.h"

#include <gtest/gtest.h>

namespace merak::pipeline {
namespace {

using Messages = std::vector<std::size_t>;

TEST(Links, CarryOneMessageEachWay) {
  Links links(2, false);
  EXPECT_TRUE(links.ready(0, 0, 1));
  EXPECT_TRUE(links.ready(1, 1, 0));
  EXPECT_FALSE(links.ready(2, 0, 1));
  EXPECT_EQ(links.done(0), Messages{2});
  EXPECT_EQ(links.done(1), Messages{});
}

TEST(Links, OfOtherPairsDoNotMatterUnlessShared) {
  Links own(3, false), shared(3, true);
  EXPECT_TRUE(own.ready(0, 0, 1));
  EXPECT_TRUE(own.ready(1, 0, 2));
  EXPECT_TRUE(shared.ready(0, 0, 1));
  EXPECT_FALSE(shared.ready(1, 0, 2));  // the same sender
  EXPECT_FALSE(shared.ready(2, 2, 1));  // the same receiver
  EXPECT_TRUE(shared.ready(3, 1, 0));   // the other direction of both
  EXPECT_EQ(shared.done(0), (Messages{1, 2}));
}

TEST(Links, GiveTurnsByWhoWasReadyFirst) {
  Links links(2, false);
  EXPECT_TRUE(links.ready(5, 0, 1));
  EXPECT_FALSE(links.ready(9, 0, 1));
  EXPECT_FALSE(links.ready(2, 0, 1));
  EXPECT_EQ(links.done(5), Messages{9});
  EXPECT_EQ(links.done(9), Messages{2});
}

TEST(Links, LetPassWhoNeedsOnlyWhatIsFree) {
  Links links(4, true);
  EXPECT_TRUE(links.ready(0, 0, 1));
  EXPECT_TRUE(links.ready(1, 2, 3));
  EXPECT_FALSE(links.ready(2, 0, 3));  // first in turn, but its receiver is busy
  EXPECT_FALSE(links.ready(3, 0, 1));
  EXPECT_EQ(links.done(0), Messages{3});
  EXPECT_EQ(links.done(1), Messages{});
  EXPECT_EQ(links.done(3), Messages{2});
}

}  // namespace
}  // namespace merak::pipeline
