#pragma once
// Random small graphs, and the best cut of one by trying everything: all boundaries, all prefixes. Costs are worked out
// from the nodes and values themselves, by the definitions in linear_graph.h, pipeline_model.h and stage_memory.h.

#include <algorithm>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "graph/linear_graph.h"
#include "graph/pipeline_model.h"

namespace merak {

inline LinearGraph random_graph(std::mt19937& random, int nodes) {
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  LinearGraph graph;
  graph.parameter_bytes = {8, 16, 40, 4};
  for (int i = 0; i < nodes; ++i) {
    NodeCost node{.forward_s = 1.0 + below(8), .backward_input_s = 1.0 * below(9), .backward_weight_s = 1.0 * below(5)};
    node.saved_bytes = below(30);
    node.kept = below(4) == 0;
    node.kept_bytes = below(1 + static_cast<int>(node.saved_bytes)) / 2;
    node.working_bytes = (7 * i + static_cast<int>(node.saved_bytes)) % 20;
    for (int p = 0; p < 4; ++p)
      if (below(4) == 0) node.parameters.push_back(p);
    graph.nodes.push_back(node);
    graph.may_cut.push_back(below(6) != 0);
    graph.may_end_prefix.push_back(below(4) != 0);
    Value value{.producer = i, .consumers = {}, .bytes = 1.0 * below(12), .has_gradient = below(3) != 0};
    for (int to = i + 1; to < nodes; ++to)
      if (to == i + 1 || below(5) == 0) value.consumers.push_back(to);
    graph.values.push_back(value);
  }
  graph.values.push_back({.producer = -1, .consumers = {0, nodes - 1}, .bytes = 3, .has_gradient = false});
  return graph;
}

class BruteForce {
 public:
  BruteForce(const LinearGraph& graph, const PipelineModel& model) : graph_(graph), model_(model) {}

  struct Stage {
    int first, end, prefix_end;
  };

  // Infinity where nothing fits.
  double least_step_s(const std::set<int>& forced = {}) {
    forced_ = forced;
    best_ = std::numeric_limits<double>::infinity();
    cut_from(0);
    return best_;
  }

  double memory(const std::vector<Stage>& stages, int rank) const {
    double stays = 0, comes_back = 0;
    for (int s = 0; s < static_cast<int>(stages.size()); ++s) {
      if (model_.rank_of[s] != rank) continue;
      const InFlight& flight = model_.in_flight[s];
      const double saved = saved_bytes(stages[s].first, stages[s].end);
      const double kept = saved_bytes(stages[s].prefix_end, stages[s].end) + kept_bytes(stages[s]);
      stays += model_.state_factor * parameter_bytes(stages[s]);
      stays += (flight.whole + flight.checkpointed) * (kept + entering(stages[s], -1, false));
      comes_back = std::max(comes_back, flight.whole * (saved - kept) + working_bytes(stages[s]));
    }
    return stays + comes_back;
  }

  double step_s(const std::vector<Stage>& stages) const {
    double passes = 0, longest = 0;
    for (int rank = 0; rank < model_.ranks(); ++rank) {
      double work = 0, receive = 0, back = 0;
      for (int s = 0; s < static_cast<int>(stages.size()); ++s)
        if (model_.rank_of[s] == rank) {
          work += work_s(stages[s]);
          receive += model_.transfer_s(entering(stages[s], 0, false));
          back += model_.transfer_s(entering(stages[s], 0, true));
        }
      passes += work + receive + back;
      longest = std::max(longest, model_.hides_communication ? std::max({work, receive, back}) : work + receive + back);
    }
    const double v = 1.0 * model_.stages() / model_.ranks();
    return passes / v + (model_.micro_batches - 1 / v) * longest;
  }

 private:
  double saved_bytes(int first, int end) const {
    double sum = 0;
    for (int i = first; i < end; ++i) sum += graph_.nodes[i].saved_bytes;
    return sum;
  }

  // Of a backward, the most that is alive at any node, less all that is saved.
  double working_bytes(const Stage& stage) const {
    double most = 0;
    for (int i = stage.first; i < stage.end; ++i)
      most = std::max(most, saved_bytes(stage.first, i + 1) + graph_.nodes[i].working_bytes);
    return most - saved_bytes(stage.first, stage.end);
  }

  double kept_bytes(const Stage& stage) const {
    double sum = 0;
    for (int i = stage.first; i < stage.prefix_end; ++i) sum += graph_.nodes[i].kept_bytes;
    return sum;
  }

  double work_s(const Stage& stage) const {
    double sum = 0;
    for (int i = stage.first; i < stage.end; ++i) {
      const NodeCost& node = graph_.nodes[i];
      sum += node.forward_s + node.backward_input_s + node.backward_weight_s;
      if (i < stage.prefix_end && !node.kept) sum += node.forward_s;
    }
    return sum;
  }

  double parameter_bytes(const Stage& stage) const {
    std::set<int> used;
    for (int i = stage.first; i < stage.end; ++i)
      used.insert(graph_.nodes[i].parameters.begin(), graph_.nodes[i].parameters.end());
    double sum = 0;
    for (int p : used) sum += graph_.parameter_bytes[p];
    return sum;
  }

  double entering(const Stage& stage, int first_producer, bool gradients) const {
    double sum = 0;
    for (const Value& value : graph_.values) {
      if (value.producer < first_producer || value.producer >= stage.first) continue;
      const bool used = std::any_of(value.consumers.begin(), value.consumers.end(),
                                    [&](int c) { return c >= stage.first && c < stage.end; });
      if (used && (value.has_gradient || !gradients)) sum += value.bytes;
    }
    return sum;
  }

  void cut_from(int first) {
    const int left = model_.stages() - static_cast<int>(stages_.size());
    if (left == 0) {
      if (first == graph_.size()) recompute_from(0);
      return;
    }
    for (int end = first + 1; end <= graph_.size(); ++end) {
      if (end == graph_.size() || graph_.may_cut[end]) {
        stages_.push_back({first, end, first});
        cut_from(end);
        stages_.pop_back();
      }
      if (forced_.count(end)) return;
    }
  }

  void recompute_from(int s) {
    if (s == model_.stages()) {
      for (int rank = 0; rank < model_.ranks(); ++rank)
        if (memory(stages_, rank) > model_.budget_bytes[rank]) return;
      best_ = std::min(best_, step_s(stages_));
      return;
    }
    for (int end = stages_[s].first; end <= stages_[s].end; ++end) {
      const bool allowed = end == stages_[s].first || end == stages_[s].end || graph_.may_end_prefix[end];
      if (!allowed) continue;
      stages_[s].prefix_end = end;
      recompute_from(s + 1);
    }
    stages_[s].prefix_end = stages_[s].first;
  }

  const LinearGraph& graph_;
  const PipelineModel& model_;
  std::set<int> forced_;
  std::vector<Stage> stages_;
  double best_ = 0;
};

}  // namespace merak
