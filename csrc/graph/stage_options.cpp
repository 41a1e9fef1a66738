#include "graph/stage_options.h"

#include <algorithm>

namespace merak {

StageOptions::StageOptions(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
                           const std::vector<int>& forced)
    : costs_(costs), model_(model), recompute_(recompute) {
  for (int from = 0; from < segments(); ++from) {
    const auto next = std::upper_bound(forced.begin(), forced.end(), from);
    last_end_.push_back(next == forced.end() ? segments() : *next);
  }
  std::vector<int> first_of_kind;
  const auto alike = [&](int a, int b) {
    return model.in_flight[a] == model.in_flight[b] && model.budget_of_stage(a) == model.budget_of_stage(b) &&
           (recompute.kind != RecomputeKind::kShares || recompute.shares[a] == recompute.shares[b]) &&
           (recompute.kind != RecomputeKind::kNodes || recompute.nodes[a] == recompute.nodes[b]);
  };
  for (int s = 0; s < stages(); ++s) {
    const auto kind =
        std::find_if(first_of_kind.begin(), first_of_kind.end(), [&](int first) { return alike(first, s); });
    kind_of_.push_back(static_cast<int>(kind - first_of_kind.begin()));
    if (kind == first_of_kind.end()) first_of_kind.push_back(s);
  }
  rows_.assign(first_of_kind.size(), std::vector<std::vector<StageOption>>(segments()));
}

StageOption StageOptions::option(int stage, Interval interval) const {
  return option(interval, prefix_end_of(costs_, model_, recompute_, stage, interval));
}

StageOption StageOptions::option(Interval interval, int prefix_end) const {
  const int first = costs_.node_at(interval.from), end = costs_.node_at(interval.to);
  const double work_s =
      costs_.forward_s(first, end) + costs_.backward_s(first, end) + costs_.recompute_s(first, prefix_end);
  const double receive_s = model_.transfer_s(costs_.received_bytes(interval));
  const double return_s = model_.transfer_s(costs_.returned_bytes(interval));
  return {.period_s = model_.period_s(work_s, receive_s, return_s), .pass_s = work_s + receive_s + return_s};
}

double StageOptions::missing_bytes(int stage, Interval interval) const {
  const int prefix_end = prefix_end_of(costs_, model_, recompute_, stage, interval);
  const double bytes = stage_memory(costs_, model_, stage, interval, prefix_end);
  const double budget = model_.budget_of_stage(stage);
  return fits(bytes, budget) ? 0 : bytes - budget;
}

bool StageOptions::is_within(int stage, Interval interval, double period_s) const {
  const int prefix_end = prefix_end_of(costs_, model_, recompute_, stage, interval);
  return option(interval, prefix_end).period_s <= period_s &&
         fits(stage_memory(costs_, model_, stage, interval, prefix_end), model_.budget_of_stage(stage));
}

int StageOptions::furthest(int stage, int from, double period_s) const {
  int within = from, beyond = last_end_[from] + 1;
  while (beyond - within > 1) {
    const int middle = (within + beyond) / 2;
    (is_within(stage, {from, middle}, period_s) ? within : beyond) = middle;
  }
  return within;
}

const std::vector<StageOption>& StageOptions::row(int stage, int from, double period_limit_s) {
  std::vector<StageOption>& row = rows_[kind_of_[stage]][from];
  if (row.empty()) {
    const int furthest_end = furthest(stage, from, period_limit_s);
    row.reserve(furthest_end - from);
    for (int to = from + 1; to <= furthest_end; ++to) row.push_back(option(stage, {from, to}));
  }
  return row;
}

}  // namespace merak
