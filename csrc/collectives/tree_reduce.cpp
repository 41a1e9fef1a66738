#include "collectives/tree_reduce.h"

#include <algorithm>

#include "collectives/tree.h"

namespace merak {

double tree_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs) {
  const TreeDepth depth = tree_depth(topology);
  const LinkCosts between = between_link(costs), inside = inside_link(costs);
  return depth.between_hosts * (between.message_s(message_bytes) + between.reduce_s(message_bytes)) +
         depth.inside * (inside.message_s(message_bytes) + inside.reduce_s(message_bytes));
}

Program tree_reduce(const Topology& topology, int root, int rank, std::size_t message_bytes, bool in_place) {
  TreeNode node = tree_node(topology, root, rank);
  std::reverse(node.children.begin(), node.children.end());
  const bool is_root = node.parent < 0;
  const Place own{is_root && in_place ? kOutput : kInput, 0};
  Program program;
  if (message_bytes == 0) return program;

  std::vector<Place> landed;
  std::vector<std::uint32_t> arrivals;
  for (int child : node.children) {
    const bool into_output = is_root && !in_place && landed.empty();
    landed.push_back({into_output ? kOutput : program.add_scratch(message_bytes), 0});
    arrivals.push_back(program.receive(child, landed.back(), message_bytes));
  }

  Place sum = own;
  std::vector<std::uint32_t> summed;
  for (std::size_t i = 0; i < landed.size(); ++i) {
    const bool last = is_root && i + 1 == landed.size();
    const bool starts_sum = i == 0 && !(is_root && in_place);
    const Place at = starts_sum ? landed[i] : sum, from = starts_sum ? own : landed[i];
    std::vector<std::uint32_t> after = summed;
    after.push_back(arrivals[i]);
    summed = {program.reduce(at, from, message_bytes, after, last)};
    sum = at;
  }
  if (!is_root) program.send(node.parent, sum, message_bytes, summed);
  if (is_root && node.children.empty() && !in_place) program.copy({kOutput, 0}, own, message_bytes);
  return program;
}

}  // namespace merak
