#include "graph/interval_costs.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

namespace merak {
namespace {

std::vector<int> points_of(const LinearGraph& graph) {
  check_graph(graph);
  std::vector<int> points = {0};
  for (int i = 1; i < graph.size(); ++i)
    if (graph.may_cut[i]) points.push_back(i);
  points.push_back(graph.size());
  return points;
}

std::vector<std::vector<int>> uses_of_parameters(const LinearGraph& graph) {
  std::vector<std::vector<int>> uses(graph.parameter_bytes.size());
  for (int i = 0; i < graph.size(); ++i)
    for (int parameter : graph.nodes[i].parameters)
      if (uses[parameter].empty() || uses[parameter].back() != i) uses[parameter].push_back(i);
  return uses;
}

}  // namespace

IntervalCosts::IntervalCosts(const LinearGraph& graph)
    : points_(points_of(graph)),
      forward_s_{0},
      backward_s_{0},
      recompute_s_{0},
      saved_bytes_{0},
      freed_bytes_{0},
      most_freed_{0},
      next_prefix_end_(graph.size() + 1, graph.size()),
      parameters_(points_),
      inputs_(points_),
      received_(points_),
      returned_(points_) {
  for (const NodeCost& node : graph.nodes) {
    forward_s_.push_back(forward_s_.back() + node.forward_s);
    backward_s_.push_back(backward_s_.back() + node.backward_input_s + node.backward_weight_s);
    recompute_s_.push_back(recompute_s_.back() + (node.kept ? 0 : node.forward_s));
    saved_bytes_.push_back(saved_bytes_.back() + node.saved_bytes);
    freed_bytes_.push_back(freed_bytes_.back() + node.saved_bytes - node.kept_bytes);
    most_freed_.push_back(std::max(most_freed_.back(), freed_bytes_.back()));
  }
  most_alive_.emplace_back();
  for (int i = 0; i < graph.size(); ++i) most_alive_[0].push_back(saved_bytes_[i + 1] + graph.nodes[i].working_bytes);
  for (int width = 1; 2 * width <= graph.size(); width *= 2) {
    const std::vector<double>& halves = most_alive_.back();
    std::vector<double> wholes;
    for (int i = 0; i + 2 * width <= graph.size(); ++i) wholes.push_back(std::max(halves[i], halves[i + width]));
    most_alive_.push_back(std::move(wholes));
  }
  for (int i = graph.size() - 1; i >= 0; --i) {
    const bool allowed = graph.may_end_prefix.empty() || graph.may_end_prefix[i];
    next_prefix_end_[i] = allowed && freed_bytes_[i] == most_freed_[i] ? i : next_prefix_end_[i + 1];
  }
  const std::vector<std::vector<int>> uses = uses_of_parameters(graph);
  for (std::size_t k = 0; k < uses.size(); ++k) parameters_.add(-1, uses[k], graph.parameter_bytes[k]);
  for (const Value& value : graph.values) {
    std::vector<int> consumers = value.consumers;
    std::sort(consumers.begin(), consumers.end());
    inputs_.add(value.producer, consumers, value.bytes);
    if (value.producer < 0) continue;
    received_.add(value.producer, consumers, value.bytes);
    if (value.has_gradient) returned_.add(value.producer, consumers, value.bytes);
  }
  for (EnteringBytes* table : {&parameters_, &inputs_, &received_, &returned_}) table->sum_up();
}

double IntervalCosts::working_bytes(int first, int end) const {
  if (first == end) return 0;
  const int level = std::bit_width(static_cast<unsigned>(end - first)) - 1;
  const std::vector<double>& most = most_alive_[level];
  return std::max(most[first], most[end - (1 << level)]) - saved_bytes_[end];
}

int IntervalCosts::point_at(int node) const {
  const auto at = std::lower_bound(points_.begin(), points_.end(), node);
  if (at == points_.end() || *at != node)
    throw std::invalid_argument("a boundary before node " + std::to_string(node) + " is not allowed");
  return static_cast<int>(at - points_.begin());
}

int IntervalCosts::round_up(int node, int end) const { return std::min(next_prefix_end_[node], end); }

int IntervalCosts::prefix_end(const std::vector<double>& sums, int first, int end, double amount) const {
  const auto at = std::lower_bound(sums.begin() + first, sums.begin() + end, sums[first] + amount);
  return round_up(static_cast<int>(at - sums.begin()), end);
}

}  // namespace merak
