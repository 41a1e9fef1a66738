#include "graph/assess.h"

#include <algorithm>
#include <numeric>

namespace merak {
namespace {

constexpr double kRounding = 1 - 1e-9;

StageCost stage_cost(const IntervalCosts& costs, const PipelineModel& model, int stage, Interval interval,
                     int prefix_end) {
  StageCost cost{.rank = model.rank_of[stage],
                 .first = costs.node_at(interval.from),
                 .end = costs.node_at(interval.to),
                 .recomputed = prefix_end - costs.node_at(interval.from)};
  const double received = costs.received_bytes(interval), returned = costs.returned_bytes(interval);
  cost.forward_s = costs.forward_s(cost.first, cost.end);
  cost.backward_s = costs.backward_s(cost.first, cost.end);
  cost.recompute_s = costs.recompute_s(cost.first, prefix_end);
  cost.receive_s = model.transfer_s(received), cost.return_s = model.transfer_s(returned);
  cost.parameter_bytes = costs.parameter_bytes(interval);
  cost.input_bytes = costs.input_bytes(interval);
  cost.saved_bytes = costs.saved_bytes(cost.first, cost.end);
  cost.kept_bytes = cost.saved_bytes - costs.freed_bytes(cost.first, prefix_end);
  cost.memory_bytes = stage_memory(costs, model, stage, interval, prefix_end);
  cost.crossing_bytes = received + returned;
  return cost;
}

double period_of_rank(const PipelineModel& model, const std::vector<StageCost>& all, const std::vector<int>& stages) {
  double work_s = 0, receive_s = 0, return_s = 0;
  for (int s : stages) {
    work_s += all[s].work_s();
    receive_s += all[s].receive_s;
    return_s += all[s].return_s;
  }
  return model.period_s(work_s, receive_s, return_s);
}

}  // namespace

bool Cut::fits() const { return all_missing_bytes() == 0; }

double Cut::all_missing_bytes() const { return std::accumulate(missing_bytes.begin(), missing_bytes.end(), 0.0); }

Cut assess(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
           const std::vector<int>& points) {
  std::vector<Interval> intervals;
  std::vector<std::vector<int>> stages_of(model.ranks());
  for (int s = 0; s < model.stages(); ++s) {
    intervals.push_back({points[s], points[s + 1]});
    stages_of[model.rank_of[s]].push_back(s);
  }
  std::vector<int> prefix_ends(model.stages());
  Cut cut;
  cut.points = points;
  for (int rank = 0; rank < model.ranks(); ++rank) {
    choose_prefixes(costs, model, recompute, stages_of[rank], intervals, prefix_ends);
    const double memory = rank_memory(costs, model, stages_of[rank], intervals, prefix_ends);
    const double budget = model.budget_bytes[rank];
    cut.memory_bytes.push_back(memory);
    cut.missing_bytes.push_back(fits(memory, budget) ? 0 : memory - budget);
  }
  double passes_s = 0;
  for (int s = 0; s < model.stages(); ++s) {
    cut.stages.push_back(stage_cost(costs, model, s, intervals[s], prefix_ends[s]));
    passes_s += cut.stages.back().pass_s();
    cut.crossing_bytes += cut.stages.back().crossing_bytes;
  }
  for (int rank = 0; rank < model.ranks(); ++rank)
    cut.period_s.push_back(period_of_rank(model, cut.stages, stages_of[rank]));
  cut.step_s = model.step_s(passes_s, *std::max_element(cut.period_s.begin(), cut.period_s.end()));
  return cut;
}

bool is_better(const Cut& one, const Cut& other) {
  const double missing = one.all_missing_bytes(), other_missing = other.all_missing_bytes();
  if (missing < other_missing * kRounding) return true;
  if (missing * kRounding > other_missing) return false;
  if (one.step_s < other.step_s * kRounding) return true;
  return one.step_s * kRounding <= other.step_s && one.crossing_bytes < other.crossing_bytes;
}

}  // namespace merak
