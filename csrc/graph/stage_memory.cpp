#include "graph/stage_memory.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace merak {
namespace {

constexpr double kRounding = 1e-9;  // of a quantity: so little is nothing

// What a stage takes however much it recomputes, and the rest; see the header.
struct Parts {
  double fixed = 0, saved = 0, kept = 0, working = 0;
};

Parts parts_of(const IntervalCosts& costs, const PipelineModel& model, int stage, Interval interval, int prefix_end) {
  const int first = costs.node_at(interval.from), end = costs.node_at(interval.to);
  const InFlight& flight = model.in_flight[stage];
  return {.fixed = model.state_factor * costs.parameter_bytes(interval) +
                   (flight.whole + flight.checkpointed) * costs.input_bytes(interval),
          .saved = costs.saved_bytes(first, end),
          .kept = costs.saved_bytes(first, end) - costs.freed_bytes(first, prefix_end),
          .working = costs.working_bytes(first, end)};
}

int least_prefix_end(const IntervalCosts& costs, const PipelineModel& model, int stage, Interval interval) {
  const int first = costs.node_at(interval.from), end = costs.node_at(interval.to);
  const double budget = model.budget_of_stage(stage);
  const double bytes = stage_memory(costs, model, stage, interval, first);
  if (fits(bytes, budget)) return first;
  const int checkpointed = model.in_flight[stage].checkpointed;
  return checkpointed == 0 ? end : costs.end_of_freed(first, end, (bytes - budget * (1 + kRounding)) / checkpointed);
}

// The prefixes of several stages as one: `recomputed` nodes of them, the first stage of `order` first.
void spread(const IntervalCosts& costs, const std::vector<int>& order, const std::vector<Interval>& intervals,
            int recomputed, std::vector<int>& prefix_ends) {
  for (int stage : order) {
    const int first = costs.node_at(intervals[stage].from), end = costs.node_at(intervals[stage].to);
    const int taken = std::min(recomputed, end - first);
    prefix_ends[stage] = taken == 0 ? first : costs.round_up(first + taken, end);
    recomputed -= taken;
  }
}

void choose_least(const IntervalCosts& costs, const PipelineModel& model, const std::vector<int>& stages,
                  const std::vector<Interval>& intervals, std::vector<int>& prefix_ends) {
  std::vector<int> order = stages;
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return model.in_flight[a].checkpointed > model.in_flight[b].checkpointed; });
  const double budget = model.budget_of_stage(stages.front());
  int nodes = 0;
  for (int stage : stages) nodes += costs.node_at(intervals[stage].to) - costs.node_at(intervals[stage].from);
  int least = 0, most = nodes;
  while (least < most) {
    const int middle = (least + most) / 2;
    spread(costs, order, intervals, middle, prefix_ends);
    if (fits(rank_memory(costs, model, stages, intervals, prefix_ends), budget)) {
      most = middle;
    } else {
      least = middle + 1;
    }
  }
  spread(costs, order, intervals, least, prefix_ends);
}

}  // namespace

void check_recompute(const Recompute& recompute, const PipelineModel& model) {
  const std::size_t stages = model.rank_of.size();
  const bool shares = recompute.kind == RecomputeKind::kShares, nodes = recompute.kind == RecomputeKind::kNodes;
  if ((shares && recompute.shares.size() != stages) || (nodes && recompute.nodes.size() != stages))
    throw std::invalid_argument("what to recompute is given for " +
                                std::to_string(shares ? recompute.shares.size() : recompute.nodes.size()) +
                                " stages of " + std::to_string(stages));
  for (double share : recompute.shares)
    if (!(share >= 0 && share <= 1))
      throw std::invalid_argument("a share to recompute is " + std::to_string(share) + ", not from 0 to 1");
  for (int count : recompute.nodes)
    if (count < 0) throw std::invalid_argument("a number of nodes to recompute is " + std::to_string(count));
}

bool fits(double bytes, double budget_bytes) { return bytes <= budget_bytes * (1 + kRounding); }

double stage_memory(const IntervalCosts& costs, const PipelineModel& model, int stage, Interval interval,
                    int prefix_end) {
  const Parts parts = parts_of(costs, model, stage, interval, prefix_end);
  const InFlight& flight = model.in_flight[stage];
  return parts.fixed + flight.whole * parts.saved + flight.checkpointed * parts.kept + parts.working;
}

int prefix_end_of(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute, int stage,
                  Interval interval) {
  const int first = costs.node_at(interval.from), end = costs.node_at(interval.to);
  switch (recompute.kind) {
    case RecomputeKind::kNone:
      return first;
    case RecomputeKind::kAll:
      return end;
    case RecomputeKind::kNodes:
      return recompute.nodes[stage] == 0 ? first : costs.round_up(std::min(end, first + recompute.nodes[stage]), end);
    case RecomputeKind::kShares: {
      const double share = recompute.shares[stage];
      if (share == 0 || share == 1) return share == 0 ? first : end;
      return costs.end_of_forward(first, end, share * (1 - kRounding) * costs.forward_s(first, end));
    }
    case RecomputeKind::kLeast:
      break;
  }
  return least_prefix_end(costs, model, stage, interval);
}

double rank_memory(const IntervalCosts& costs, const PipelineModel& model, const std::vector<int>& stages,
                   const std::vector<Interval>& intervals, const std::vector<int>& prefix_ends) {
  double stays = 0, comes_back = 0;
  for (int stage : stages) {
    const Parts parts = parts_of(costs, model, stage, intervals[stage], prefix_ends[stage]);
    const InFlight& flight = model.in_flight[stage];
    stays += parts.fixed + (flight.whole + flight.checkpointed) * parts.kept;
    comes_back = std::max(comes_back, flight.whole * (parts.saved - parts.kept) + parts.working);
  }
  return stays + comes_back;
}

void choose_prefixes(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
                     const std::vector<int>& stages, const std::vector<Interval>& intervals,
                     std::vector<int>& prefix_ends) {
  if (recompute.kind == RecomputeKind::kLeast && stages.size() > 1) {
    choose_least(costs, model, stages, intervals, prefix_ends);
  } else {
    for (int stage : stages) prefix_ends[stage] = prefix_end_of(costs, model, recompute, stage, intervals[stage]);
  }
}

}  // namespace merak
