#include "collectives/tree.h"

#include <gtest/gtest.h>

#include "collectives/tree_broadcast.h"
#include "collectives/tree_reduce.h"
#include "steps.h"

namespace merak {
namespace {

using Ranks = std::vector<int>;

void expect_node(const Topology& topology, int root, int rank, int parent, const Ranks& children) {
  const TreeNode node = tree_node(topology, root, rank);
  EXPECT_EQ(node.parent, parent) << "rank " << rank;
  EXPECT_EQ(node.children, children) << "rank " << rank;
}

//   0 - 4 - 6 - 7
//   |   5
//   2 - 3
//   1
TEST(Tree, OfEight) {
  const Topology eight = uniform_topology(8);
  expect_node(eight, 0, 0, -1, {4, 2, 1});
  expect_node(eight, 0, 4, 0, {6, 5});
  expect_node(eight, 0, 6, 4, {7});
  expect_node(eight, 0, 2, 0, {3});
  for (int leaf : {1, 3, 5, 7}) EXPECT_TRUE(tree_node(eight, 0, leaf).children.empty());
}

TEST(Tree, StartsAtAnyRoot) {
  const Topology five = uniform_topology(5);
  expect_node(five, 3, 3, -1, {2, 0, 4});  // order 3 4 0 1 2
}

// Hosts {0, 1, 2}, {3, 4}: root 1 passes to 3 first, then to its locals.
TEST(Tree, HasTwoLevels) {
  const Topology topology{{0, 0, 0, 1, 1}};
  expect_node(topology, 1, 1, -1, {3, 0, 2});
  expect_node(topology, 1, 3, 1, {4});
  expect_node(topology, 1, 4, 3, {});
  EXPECT_EQ(tree_depth(topology).between_hosts, 1);
  EXPECT_EQ(tree_depth(topology).inside, 2);
}

TEST(TreeBroadcast, PassesTheMessageOn) {
  const Topology four = uniform_topology(4);
  EXPECT_EQ(tree_broadcast(four, 0, 0, 9).steps, (Steps{send(2, out(), 9), send(1, out(), 9)}));
  EXPECT_EQ(tree_broadcast(four, 0, 2, 9).steps, (Steps{receive(0, out(), 9), send(3, out(), 9, {0})}));
  EXPECT_EQ(tree_broadcast(four, 0, 3, 9).steps, (Steps{receive(2, out(), 9)}));
}

TEST(TreeReduce, AddsWhereTheFirstMessageLanded) {
  const Topology four = uniform_topology(4);
  EXPECT_EQ(tree_reduce(four, 0, 3, 8, false).steps, (Steps{send(2, in(), 8)}));
  EXPECT_EQ(tree_reduce(four, 0, 2, 8, false).steps,
            (Steps{receive(3, scratch(), 8),  //
                   reduce(scratch(), in(), 8, {0}), send(0, scratch(), 8, {1})}));
  EXPECT_EQ(tree_reduce(four, 0, 0, 8, false).steps,
            (Steps{receive(1, out(), 8),  //
                   receive(2, scratch(), 8), reduce(out(), in(), 8, {0}), complete(out(), scratch(), 8, {2, 1})}));
}

TEST(TreeReduce, InPlaceAddsToTheOutput) {
  EXPECT_EQ(tree_reduce(uniform_topology(2), 1, 1, 8, true).steps,
            (Steps{receive(0, scratch(), 8), complete(out(), scratch(), 8, {0})}));
}

}  // namespace
}  // namespace merak
