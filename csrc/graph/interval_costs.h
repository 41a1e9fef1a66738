#pragma once
// What any interval of nodes costs, without going through its nodes.
//
// Seconds and saved bytes are differences of running sums. Parameters and values, which count once however many nodes
// of the interval use them, come from tables over the *points*: the boundaries that are allowed, with the beginning and
// the end of the graph, numbered from 0. A *segment* lies between two neighbouring points; a stage is made of whole
// segments.

#include <vector>

#include "graph/entering_bytes.h"
#include "graph/linear_graph.h"

namespace merak {

// Of points.
struct Interval {
  int from = 0, to = 0;
};

class IntervalCosts {
 public:
  // Throws std::invalid_argument as check_graph() does.
  explicit IntervalCosts(const LinearGraph& graph);
  IntervalCosts(const IntervalCosts&) = delete;  // the tables know where the points lie
  IntervalCosts& operator=(const IntervalCosts&) = delete;

  int nodes() const { return points_.back(); }
  int segments() const { return static_cast<int>(points_.size()) - 1; }
  int node_at(int point) const { return points_[point]; }
  // Throws std::invalid_argument unless a boundary is allowed before that node.
  int point_at(int node) const;

  // Of the nodes from `first` up to, but not including, `end`.
  double forward_s(int first, int end) const { return forward_s_[end] - forward_s_[first]; }
  double backward_s(int first, int end) const { return backward_s_[end] - backward_s_[first]; }
  double saved_bytes(int first, int end) const { return saved_bytes_[end] - saved_bytes_[first]; }
  // What is alive at most while the backward goes through them, beyond what they save: saved bytes go as it proceeds.
  double working_bytes(int first, int end) const;
  // Of running them again, and what recomputing them saves: what they save, less what they keep.
  double recompute_s(int first, int end) const { return recompute_s_[end] - recompute_s_[first]; }
  double freed_bytes(int first, int end) const { return freed_bytes_[end] - freed_bytes_[first]; }

  double parameter_bytes(Interval stage) const { return parameters_.between(stage.from, stage.to); }
  // Values made by earlier nodes and by the model's caller; those that earlier nodes have to send, and the gradients
  // that go back to them.
  double input_bytes(Interval stage) const { return inputs_.between(stage.from, stage.to); }
  double received_bytes(Interval stage) const { return received_.between(stage.from, stage.to); }
  double returned_bytes(Interval stage) const { return returned_.between(stage.from, stage.to); }

  // The least end of a prefix of nodes from `first` on that frees so many bytes, or takes so many seconds in forward,
  // within a stage that ends before node `end`; `end` if none does.
  int end_of_freed(int first, int end, double bytes) const { return prefix_end(most_freed_, first, end, bytes); }
  int end_of_forward(int first, int end, double seconds) const { return prefix_end(forward_s_, first, end, seconds); }
  // The next node, `end` at most, before which a prefix may end.
  int round_up(int node, int end) const;

 private:
  int prefix_end(const std::vector<double>& sums, int first, int end, double amount) const;

  std::vector<int> points_;  // nodes
  // By node: of all before it.
  std::vector<double> forward_s_, backward_s_, recompute_s_, saved_bytes_, freed_bytes_;
  // A node that keeps more than it saves frees less than nothing, until what it kept is saved. No prefix ends between,
  // so that longer ones free more, as binary search wants it: this is the largest of all sums up to a node.
  std::vector<double> most_freed_;
  std::vector<int> next_prefix_end_;  // by node
  // By power of two and node: the largest sum of saved bytes up to a node and what that works with, of so many nodes.
  std::vector<std::vector<double>> most_alive_;
  EnteringBytes parameters_, inputs_, received_, returned_;
};

}  // namespace merak
