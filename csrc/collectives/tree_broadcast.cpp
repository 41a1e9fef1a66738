#include "collectives/tree_broadcast.h"

#include "collectives/tree.h"

namespace merak {

double tree_broadcast_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs) {
  const TreeDepth depth = tree_depth(topology);
  return depth.between_hosts * between_link(costs).message_s(message_bytes) +
         depth.inside * inside_link(costs).message_s(message_bytes);
}

Program tree_broadcast(const Topology& topology, int root, int rank, std::size_t message_bytes) {
  const TreeNode node = tree_node(topology, root, rank);
  const Place message{kOutput, 0};
  Program program;
  if (message_bytes == 0) return program;
  std::vector<std::uint32_t> arrival;
  if (node.parent >= 0) arrival = {program.receive(node.parent, message, message_bytes)};
  for (int child : node.children) program.send(child, message, message_bytes, arrival);
  return program;
}

}  // namespace merak
