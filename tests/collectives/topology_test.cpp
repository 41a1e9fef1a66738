#include "collectives/topology.h"

#include <gtest/gtest.h>

namespace merak {
namespace {

using Ranks = std::vector<int>;

TEST(Topology, GroupsRanksByHost) {
  EXPECT_EQ(ranks_by_host({{5, 2, 5, 9, 2}}), (std::vector<Ranks>{{0, 2}, {1, 4}, {3}}));
  EXPECT_EQ(uniform_topology(2, 3).host_of, (Ranks{0, 0, 0, 1, 1, 1}));
}

TEST(Topology, OrdersRanksHostByHost) {
  const Topology topology{{5, 2, 5, 9, 2}};
  EXPECT_EQ(host_major_order(topology), (Ranks{0, 2, 1, 4, 3}));
  EXPECT_EQ(host_major_order(topology, 4), (Ranks{4, 1, 3, 0, 2}));
  EXPECT_EQ(host_major_order(topology, 3), (Ranks{3, 0, 2, 1, 4}));
  EXPECT_EQ(position_in({0, 2, 1, 4, 3}, 4), 3);
}

}  // namespace
}  // namespace merak
