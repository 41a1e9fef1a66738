#include "resharding/max_flow.h"

#include <algorithm>
#include <limits>

namespace merak {

void MaxFlow::add_edge(std::size_t from, std::size_t to, double capacity) {
  edges_of_[from].push_back(edges_.size());
  edges_.push_back({to, capacity});
  edges_of_[to].push_back(edges_.size());
  edges_.push_back({from, 0});
}

double MaxFlow::run(std::size_t source, std::size_t sink, double negligible) {
  negligible_ = negligible;
  double total = 0;
  for (find_levels(source); level_[sink] >= 0; find_levels(source)) {
    next_.assign(edges_of_.size(), 0);
    for (double flow = 1; flow > 0; total += flow) flow = push(source, sink, std::numeric_limits<double>::infinity());
  }
  return total;
}

void MaxFlow::find_levels(std::size_t source) {
  level_.assign(edges_of_.size(), -1);
  level_[source] = 0;
  std::vector<std::size_t> reached = {source};
  for (std::size_t i = 0; i < reached.size(); ++i)
    for (std::size_t e : edges_of_[reached[i]])
      if (edges_[e].left > negligible_ && level_[edges_[e].to] < 0) {
        level_[edges_[e].to] = level_[reached[i]] + 1;
        reached.push_back(edges_[e].to);
      }
}

double MaxFlow::push(std::size_t node, std::size_t sink, double limit) {
  if (node == sink) return limit;
  for (; next_[node] < edges_of_[node].size(); ++next_[node]) {
    const std::size_t e = edges_of_[node][next_[node]];
    if (edges_[e].left <= negligible_ || level_[edges_[e].to] != level_[node] + 1) continue;
    const double flow = push(edges_[e].to, sink, std::min(limit, edges_[e].left));
    if (flow > 0) {
      edges_[e].left -= flow;
      edges_[e ^ 1].left += flow;
      return flow;
    }
  }
  return 0;
}

}  // namespace merak
