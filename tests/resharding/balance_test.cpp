#include "resharding/balance.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace merak {
namespace {

Flow on(std::size_t resource, double bytes) { return {.uses = {{resource, 1}}, .bytes = bytes}; }

std::vector<double> loads(const std::vector<std::vector<Flow>>& ways, const std::vector<double>& bytes_per_s) {
  const std::vector<std::uint32_t> way = balanced_ways(ways, bytes_per_s);
  std::vector<double> load(bytes_per_s.size(), 0);
  for (std::size_t job = 0; job < ways.size(); ++job)
    for (const Use& use : ways[job][way[job]].uses)
      load[use.resource] += use.weight * ways[job][way[job]].bytes / bytes_per_s[use.resource];
  return load;
}

TEST(Balance, DealsEqualJobs) {
  EXPECT_EQ(loads(std::vector<std::vector<Flow>>(6, {on(0, 1), on(1, 1), on(2, 1)}), {1, 1, 1}),
            (std::vector<double>{2, 2, 2}));
}

TEST(Balance, GivesFastLinksMore) {
  EXPECT_EQ(loads(std::vector<std::vector<Flow>>(4, {on(0, 3), on(1, 3)}), {3, 1}), (std::vector<double>{3, 3}));
}

TEST(Balance, LeavesALinkToJobsThatNeedIt) {
  EXPECT_EQ(loads({{on(0, 2), on(1, 2)}, {on(0, 2)}, {on(1, 1)}, {on(1, 1)}}, {1, 1}), (std::vector<double>{4, 2}));
  EXPECT_EQ(loads({{on(0, 2), on(1, 2)}, {on(0, 2)}}, {1, 1}), (std::vector<double>{2, 2}));
}

TEST(Balance, TurnsAroundWhereWaysUseAllLinksButOne) {  // as in an all_reduce by chains
  std::vector<Flow> ways;
  for (std::size_t spared = 0; spared < 4; ++spared) {
    Flow flow{.uses = {}, .bytes = 1};
    for (std::size_t resource = 0; resource < 4; ++resource)
      if (resource != spared) flow.uses.push_back({resource, 1});
    ways.push_back(flow);
  }
  EXPECT_EQ(loads(std::vector<std::vector<Flow>>(8, ways), {1, 1, 1, 1}), (std::vector<double>(4, 6)));
}

}  // namespace
}  // namespace merak
