#pragma once
// A model as a line of nodes, with what each costs: what is cut into pipeline stages.
//
// *Nodes* are numbered in the order of execution; all costs are those of one micro-batch. A *value* is what a node, its
// producer, gives to later nodes, its consumers. A *boundary* before node i parts the nodes below i from the rest; it
// is *allowed* where everything that crosses it can be sent (no lists, nothing that is mutated later).
//
// *Saved* bytes are what a node's backward needs, parameters apart. A tensor that several nodes save counts at the last
// of them, since it stays as long as any of them is not recomputed. A *kept* node's result stays though its stage
// recomputes, so that it does not run again; *kept* bytes are those of such results, counted where the tensor is saved,
// or at the node itself if nothing saves it. *Working* bytes are alive while a node's backward runs, and are not saved:
// gradients of its result and of what it is given, and those that later nodes have left for earlier ones. A *parameter*
// that several nodes use is tied: a stage that uses it stores it once, and every stage that uses it stores it.
//
// Bytes are doubles: they are added up exactly to 2^53, and multiplied by ratios.

#include <vector>

namespace merak {

struct NodeCost {
  double forward_s = 0;
  double backward_input_s = 0, backward_weight_s = 0;  // gradients of activations, and of parameters
  double saved_bytes = 0;
  std::vector<int> parameters = {};
  double kept_bytes = 0;
  bool kept = false;
  double working_bytes = 0;
};

struct Value {
  int producer = 0;  // -1: an input of the model, which every stage that uses it gets from outside
  std::vector<int> consumers = {};
  double bytes = 0;
  bool has_gradient = true;  // as many bytes come back
};

struct LinearGraph {
  std::vector<NodeCost> nodes;
  std::vector<Value> values = {};
  std::vector<double> parameter_bytes = {};  // by parameter
  std::vector<bool> may_cut;  // by node: a boundary is allowed before it; that of node 0 is not looked at
  // By node: a recomputed prefix may end before it, or anywhere if empty; at the end of a stage it always may.
  std::vector<bool> may_end_prefix = {};

  int size() const { return static_cast<int>(nodes.size()); }
};

// Throws std::invalid_argument that names what is wrong: a size, a negative cost, a consumer before its producer.
void check_graph(const LinearGraph& graph);

}  // namespace merak
