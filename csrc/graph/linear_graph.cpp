#include "graph/linear_graph.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace merak {
namespace {

void require(bool holds, const std::string& problem) {
  if (!holds) throw std::invalid_argument("the graph to cut: " + problem);
}

bool is_cost(double cost) { return std::isfinite(cost) && cost >= 0; }

void check_node(const LinearGraph& graph, int i) {
  const NodeCost& node = graph.nodes[i];
  const std::string name = "node " + std::to_string(i);
  require(is_cost(node.forward_s) && is_cost(node.backward_input_s) && is_cost(node.backward_weight_s),
          name + " takes a time that is negative or not finite");
  require(is_cost(node.saved_bytes) && is_cost(node.kept_bytes) && is_cost(node.working_bytes),
          name + " saves, keeps or works with a number of bytes that is negative or not finite");
  for (int parameter : node.parameters)
    require(
        parameter >= 0 && parameter < static_cast<int>(graph.parameter_bytes.size()),
        name + " uses parameter " + std::to_string(parameter) + " of " + std::to_string(graph.parameter_bytes.size()));
}

void check_value(const LinearGraph& graph, const Value& value) {
  const std::string name = "a value of node " + std::to_string(value.producer);
  require(value.producer >= -1 && value.producer < graph.size(),
          name + ", but there are " + std::to_string(graph.size()) + " nodes");
  require(is_cost(value.bytes), name + " has a number of bytes that is negative or not finite");
  for (int consumer : value.consumers)
    require(consumer > value.producer && consumer < graph.size(),
            name + " is used by node " + std::to_string(consumer) + ", which does not come after it");
}

}  // namespace

void check_graph(const LinearGraph& graph) {
  require(graph.size() > 0, "it has no nodes");
  require(static_cast<int>(graph.may_cut.size()) == graph.size(),
          "may_cut has " + std::to_string(graph.may_cut.size()) + " entries for " + std::to_string(graph.size()) +
              " nodes");
  require(graph.may_end_prefix.empty() || static_cast<int>(graph.may_end_prefix.size()) == graph.size(),
          "may_end_prefix has " + std::to_string(graph.may_end_prefix.size()) + " entries for " +
              std::to_string(graph.size()) + " nodes");
  for (double bytes : graph.parameter_bytes) require(is_cost(bytes), "a parameter's bytes are negative or not finite");
  for (int i = 0; i < graph.size(); ++i) check_node(graph, i);
  for (const Value& value : graph.values) check_value(graph, value);
}

}  // namespace merak
