#include "collectives/tree.h"

#include <algorithm>
#include <bit>

namespace merak {
namespace {

// Adds what the tree of the ranks in `order` gives to the rank at `position`.
void join(TreeNode& node, const std::vector<int>& order, std::size_t position) {
  const std::size_t size = order.size();
  const std::size_t lowest = position ? position & ~(position - 1) : std::bit_ceil(size);
  if (position > 0) node.parent = order[position - lowest];
  for (std::size_t distance = lowest / 2; distance > 0; distance /= 2)
    if (position + distance < size) node.children.push_back(order[position + distance]);
}

int rounds(std::size_t size) { return std::bit_width(size - 1); }  // log2, rounded up

}  // namespace

TreeNode tree_node(const Topology& topology, int root, int rank) {
  TreeNode node;
  std::vector<int> firsts, mine;  // of all hosts; the ranks of my host
  const auto host = [&](int r) { return topology.host_of[r]; };
  for (int r : host_major_order(topology, root)) {
    if (firsts.empty() || host(firsts.back()) != host(r)) firsts.push_back(r);
    if (host(r) == host(rank)) mine.push_back(r);
  }
  if (mine.front() == rank) join(node, firsts, position_in(firsts, rank));
  join(node, mine, position_in(mine, rank));
  return node;
}

TreeDepth tree_depth(const Topology& topology) {
  const std::vector<std::vector<int>> hosts = ranks_by_host(topology);
  std::size_t most = 1;
  for (const std::vector<int>& host : hosts) most = std::max(most, host.size());
  return {rounds(hosts.size()), rounds(most)};
}

}  // namespace merak
