#pragma once
// Random small searches for stages, and the best stages by trying everything: all numbers of stages, boundaries, shapes
// and prefixes. What a stage takes is worked out from nodes and values by tests/graph/brute_force.h.

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "graph/brute_force.h"
#include "planner/search_model.h"

namespace merak::planner {

struct RandomSearch {
  std::vector<LinearGraph> graphs;  // by shape
  std::vector<std::unique_ptr<IntervalCosts>> costs;
  std::vector<StageShape> shapes;
  SearchModel model;

  explicit RandomSearch(std::mt19937& random) {
    const auto below = [&](int n) { return static_cast<int>(random() % n); };
    const LinearGraph whole = random_graph(random, 3 + below(4));
    model.devices = 1 + below(below(2) == 0 ? 4 : 8);
    model.max_stages = 1 + below(6);
    model.micro_batches = 1 + below(9);
    model.hides_communication = below(2) == 0;
    model.recompute = below(3) != 0   ? RecomputeKind::kLeast
                      : below(2) == 0 ? RecomputeKind::kNone
                                      : RecomputeKind::kAll;
    model.in_flight.clear();
    for (int behind = 0; behind < model.max_stages; ++behind)
      model.in_flight.push_back({1 + (below(4) == 0), std::min(model.micro_batches, behind + 1) - 1});
    const int count = 1 + below(3);
    for (int i = 0; i < count; ++i) add_shape(whole, 1 + below(std::min(3, model.devices)), random);
  }

 private:
  // The same values between the same nodes, but other costs.
  void add_shape(LinearGraph graph, int devices, std::mt19937& random) {
    const auto below = [&](int n) { return static_cast<int>(random() % n); };
    for (NodeCost& node : graph.nodes) {
      const double times = (0.5 + below(4)) / devices;
      node.forward_s *= times, node.backward_input_s *= times, node.backward_weight_s *= times;
      node.saved_bytes /= devices, node.kept_bytes /= devices;
    }
    for (double& bytes : graph.parameter_bytes) bytes /= devices;
    graphs.push_back(graph);
    costs.push_back(std::make_unique<IntervalCosts>(graph));
    StageShape shape{.devices = devices, .costs = costs.back().get()};
    shape.latency_s = below(2);
    if (below(3) != 0) shape.bytes_per_s = 1 + below(20);
    if (below(4) != 0) shape.budget_bytes = 150.0 + below(400);
    shape.once_s_per_byte = below(2) * 0.25;
    shape.state_factor = 1 + below(4);
    if (below(3) == 0)
      for (int before = 0; before <= model.devices; ++before) shape.may_begin.push_back(below(4) != 0);
    shapes.push_back(shape);
  }
};

class EveryArrangement {
 public:
  EveryArrangement(const RandomSearch& search, const Pinned& pinned) : search_(search), pinned_(pinned) {}

  // Infinity where nothing fits.
  double least_step_s(int stages) { return best(stages).step_s; }
  // The least that the worst stage misses, over all numbers of stages; infinity if none takes all devices.
  double least_missing_bytes() {
    double least = kInfinity;
    for (int stages = 1; stages <= search_.model.max_stages; ++stages)
      least = std::min(least, best(stages).missing_bytes);
    return least;
  }

 private:
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  struct Best {
    double step_s = kInfinity, missing_bytes = kInfinity;
  };
  struct Option {
    double pass_s = kInfinity, period_s = kInfinity, missing_bytes = kInfinity;
  };

  Best best(int stages) {
    best_ = {};
    if (pinned_.stages == 0 || stages == pinned_.stages)
      extend(stages, stages, 0, 0, {.pass_s = 0, .period_s = 0, .missing_bytes = 0});
    return best_;
  }

  void extend(int stages, int to_come, int from, int used, Option so_far) {
    const IntervalCosts& points = *search_.costs[0];
    if (to_come == 0) {
      if (from != points.segments() || used != search_.model.devices) return;
      best_.step_s = std::min(best_.step_s, so_far.pass_s + (search_.model.micro_batches - 1) * so_far.period_s);
      best_.missing_bytes = std::min(best_.missing_bytes, so_far.missing_bytes);
      return;
    }
    for (int i = 0; i < static_cast<int>(search_.shapes.size()); ++i) {
      const StageShape& shape = search_.shapes[i];
      const int pinned = pinned_.shapes.empty() ? -1 : pinned_.shapes[stages - to_come];
      if (used + shape.devices > search_.model.devices || (pinned >= 0 && pinned != i)) continue;
      if (!shape.may_begin.empty() && !shape.may_begin[used]) continue;
      for (int to = from + 1; to <= points.segments(); ++to) {
        const Option one = option(i, to_come - 1, points.node_at(from), points.node_at(to));
        extend(stages, to_come - 1, to, used + shape.devices,
               {so_far.pass_s + one.pass_s, std::max(so_far.period_s, one.period_s),
                std::max(so_far.missing_bytes, one.missing_bytes)});
        if (std::count(pinned_.boundaries.begin(), pinned_.boundaries.end(), to) > 0) break;
      }
    }
  }

  // With the prefix that takes the least time of those that fit.
  Option option(int number, int behind, int first, int end) {
    const auto [at, is_new] = options_.try_emplace({number, behind, first, end});
    if (!is_new) return at->second;
    const StageShape& shape = search_.shapes[number];
    const LinearGraph& graph = search_.graphs[number];
    PipelineModel model{.in_flight = {search_.model.in_flight[behind]}};
    model.latency_s = shape.latency_s, model.bytes_per_s = shape.bytes_per_s;
    model.hides_communication = search_.model.hides_communication;
    for (int prefix_end = first; prefix_end <= end; ++prefix_end) {
      const bool recomputes = prefix_end > first, all = prefix_end == end;
      if (recomputes && !all && !graph.may_end_prefix[prefix_end]) continue;
      if (search_.model.recompute == RecomputeKind::kNone && recomputes) continue;
      if (search_.model.recompute == RecomputeKind::kAll && !all) continue;
      const std::vector<BruteForce::Stage> stage = {{first, end, prefix_end}};
      const BruteForce alone(graph, model);
      model.state_factor = 0, model.micro_batches = 1;
      const double without_state = alone.memory(stage, 0), pass_s = alone.step_s(stage);
      model.state_factor = 1;
      const double parameter_bytes = alone.memory(stage, 0) - without_state;
      model.micro_batches = 2;
      const double once_s = shape.once_s_per_byte * parameter_bytes / search_.model.micro_batches;
      const double period_s = alone.step_s(stage) - pass_s + once_s;
      const double missing = without_state + shape.state_factor * parameter_bytes - shape.budget_bytes;
      at->second.missing_bytes = std::min(at->second.missing_bytes, std::max(0.0, missing));
      if (missing > 1e-6) continue;
      at->second.pass_s = std::min(at->second.pass_s, pass_s + once_s);
      at->second.period_s = std::min(at->second.period_s, period_s);
    }
    return at->second;
  }

  const RandomSearch& search_;
  Pinned pinned_;
  std::map<std::tuple<int, int, int, int>, Option> options_;  // by shape, stages behind, first node, end
  Best best_;
};

}  // namespace merak::planner
