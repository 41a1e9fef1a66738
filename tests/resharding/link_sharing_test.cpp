#include "resharding/link_sharing.h"

#include <gtest/gtest.h>

namespace merak {
namespace {

void expect_spans(const std::vector<Span>& spans, const std::vector<std::pair<double, double>>& expected) {
  ASSERT_EQ(spans.size(), expected.size());
  for (std::size_t i = 0; i < spans.size(); ++i) {
    EXPECT_NEAR(spans[i].start_s, expected[i].first, 1e-6) << "flow " << i;
    EXPECT_NEAR(spans[i].end_s, expected[i].second, 1e-6) << "flow " << i;
  }
}

TEST(LinkSharing, GivesAllFlowsOfALinkTheSame) {  // the short one leaves the link to the other
  expect_spans(share_links({{.uses = {{0, 1}}, .bytes = 10}, {.uses = {{0, 1}}, .bytes = 4}}, {2}, 1),
               {{0, 7}, {0, 4}});
}

TEST(LinkSharing, GivesWhatAHeldFlowLeavesToOthers) {  // flow 0 is held at 1 by resource 1, so flow 1 has 3 of 4
  expect_spans(share_links({{.uses = {{0, 1}, {1, 1}}, .bytes = 5}, {.uses = {{0, 1}}, .bytes = 15}}, {4, 1}, 1),
               {{0, 5}, {0, 5}});
}

TEST(LinkSharing, CountsAFlowAsOftenAsItUsesAResource) {
  expect_spans(share_links({{.uses = {{0, 3}}, .bytes = 2}}, {6}, 1), {{0, 1}});
}

TEST(LinkSharing, AdmitsAsManyAsTheWindowSays) {
  const std::vector<Flow> flows(3, {.uses = {{0, 1}}, .lanes = {0}, .bytes = 1, .latency_s = 1});
  expect_spans(share_links(flows, {1}, 1), {{0, 2}, {2, 4}, {4, 6}});
  expect_spans(share_links(flows, {1}, 2), {{0, 3}, {0, 3}, {3, 5}});
  expect_spans(share_links(flows, {1}, 3), {{0, 4}, {0, 4}, {0, 4}});
}

TEST(LinkSharing, KeepsOrderInEveryLane) {  // the third waits for the second, which waits for the first
  const std::vector<Flow> flows = {{.uses = {{0, 1}}, .lanes = {0}, .bytes = 2},
                                   {.uses = {{1, 1}}, .lanes = {0, 1}, .bytes = 2},
                                   {.uses = {{2, 1}}, .lanes = {1}, .bytes = 2}};
  expect_spans(share_links(flows, {1, 1, 1}, 1), {{0, 2}, {2, 4}, {4, 6}});
}

TEST(LinkSharing, PassesTheLastSegmentsOnAtTheLastRate) {
  expect_spans(share_links({{.uses = {{0, 1}}, .bytes = 8, .latency_s = 0.5, .trailing_bytes = 2}}, {2}, 1),
               {{0, 5.5}});
}

TEST(LinkSharing, EndsWhereAByteTakesNoTimeToSpeakOf) {  // beside a flow of years
  const std::vector<Span> spans = share_links(
      {{.uses = {{0, 1}}, .lanes = {0}, .bytes = 1e15}, {.uses = {{1, 1}}, .lanes = {0}, .bytes = 1}}, {1e7, 1e9}, 1);
  EXPECT_NEAR(spans[1].end_s, 1e8, 1);
}

}  // namespace
}  // namespace merak
