#pragma once
// A binomial tree of ranks, in two levels: the first ranks of all hosts form one tree, and in each host its first rank
// is the root of another. A message between hosts thus enters each host once.
//
// Binomial: of ranks at positions 0 to n - 1, position p has the children p + 1, p + 2, p + 4, ... as long as the
// addend is below the lowest set bit of p (position 0: below n). The child at distance d has a subtree of d ranks.

#include <vector>

#include "collectives/topology.h"

namespace merak {

struct TreeNode {
  int parent = -1;            // a rank; -1 at the root
  std::vector<int> children;  // ranks: those in other hosts first, in each level the largest subtree first
};

// `rank`'s place in the tree that has `root` as its root.
TreeNode tree_node(const Topology& topology, int root, int rank);

// How many messages follow one another on the longest way down, in trees of one host each and between hosts.
struct TreeDepth {
  int between_hosts = 0, inside = 0;
};
TreeDepth tree_depth(const Topology& topology);

}  // namespace merak
