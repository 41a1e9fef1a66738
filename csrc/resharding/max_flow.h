#pragma once
// The most that can flow from a source to a sink over edges of given capacities, by Dinic's algorithm: breadth-first
// levels, then flow along edges that lead one level on, until the sink is out of reach. Nodes that the source still
// reaches then are one side of a smallest cut.

#include <cstddef>
#include <vector>

namespace merak {

class MaxFlow {
 public:
  explicit MaxFlow(std::size_t nodes) : edges_of_(nodes) {}

  void add_edge(std::size_t from, std::size_t to, double capacity);

  // Once. What is less than `negligible` counts as nothing, so that rounding makes no flows.
  double run(std::size_t source, std::size_t sink, double negligible);

  // After run.
  bool is_reached(std::size_t node) const { return level_[node] >= 0; }

 private:
  struct Edge {
    std::size_t to;
    double left;
  };

  void find_levels(std::size_t source);
  double push(std::size_t node, std::size_t sink, double limit);

  std::vector<Edge> edges_;  // the reverse of edge i is edge i ^ 1
  std::vector<std::vector<std::size_t>> edges_of_;
  std::vector<int> level_;
  std::vector<std::size_t> next_;  // of each node: the first edge that may still lead on
  double negligible_ = 0;
};

}  // namespace merak
