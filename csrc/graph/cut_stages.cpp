#include "graph/cut_stages.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>

#include "graph/exact_cut.h"
#include "graph/hill_climb.h"
#include "graph/stage_options.h"
#include "graph/uniform_cut.h"

namespace merak {
namespace {

std::vector<int> points_of(const IntervalCosts& costs, const std::vector<int>& nodes) {
  std::vector<int> points;
  for (int node : nodes) {
    if (node <= 0 || node >= costs.nodes())
      throw std::invalid_argument("a boundary is forced before node " + std::to_string(node) + " of " +
                                  std::to_string(costs.nodes()));
    points.push_back(costs.point_at(node));
    if (points.size() > 1 && points.back() <= points[points.size() - 2])
      throw std::invalid_argument("the forced boundaries do not ascend at node " + std::to_string(node));
  }
  return points;
}

void check(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
           const std::vector<int>& forced) {
  check_model(model);
  check_recompute(recompute, model);
  const std::string stages = std::to_string(model.stages()) + " stages have ";
  if (model.stages() > costs.segments())
    throw std::invalid_argument(stages + std::to_string(model.stages() - 1) + " boundaries, but only " +
                                std::to_string(costs.segments() - 1) + " are allowed in this graph");
  if (static_cast<int>(forced.size()) >= model.stages())
    throw std::invalid_argument(stages + std::to_string(model.stages() - 1) + " boundaries, but " +
                                std::to_string(forced.size()) + " are forced");
}

// One rank for each stage, with that much memory.
PipelineModel spread_out(PipelineModel model, double share_of_budget) {
  std::vector<double> budget;
  for (int s = 0; s < model.stages(); ++s) budget.push_back(model.budget_of_stage(s) * share_of_budget);
  model.budget_bytes = std::move(budget);
  std::iota(model.rank_of.begin(), model.rank_of.end(), 0);
  return model;
}

std::optional<std::vector<int>> exact(const IntervalCosts& costs, const PipelineModel& model,
                                      const Recompute& recompute, const std::vector<int>& forced) {
  StageOptions options(costs, model, recompute, forced);
  const double all_s = costs.forward_s(0, costs.nodes()) + costs.backward_s(0, costs.nodes());
  return exact_cut(options, model.micro_batches - 1, all_s);
}

Cut climbed(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
            const std::vector<int>& forced) {
  std::vector<std::vector<int>> starts;
  const Recompute none{.kind = RecomputeKind::kNone};
  if (auto cut = exact(costs, spread_out(model, 1 / model.stages_per_rank()), recompute, forced))
    starts.push_back(*cut);
  starts.push_back(*exact(costs, spread_out(model, std::numeric_limits<double>::infinity()), none, forced));
  if (forced.empty())
    for (Weight weight : {Weight::kNodes, Weight::kParameters})
      starts.push_back(uniform_points(costs, model.stages(), weight));
  return hill_climb(costs, model, recompute, forced, starts);
}

Cut cut_at(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
           const std::vector<int>& forced) {
  if (static_cast<int>(forced.size()) == model.stages() - 1) {
    std::vector<int> points = {0};
    points.insert(points.end(), forced.begin(), forced.end());
    points.push_back(costs.segments());
    return assess(costs, model, recompute, points);
  }
  if (model.stages() != model.ranks()) return climbed(costs, model, recompute, forced);
  const std::optional<std::vector<int>> points = exact(costs, model, recompute, forced);
  if (points) return assess(costs, model, recompute, *points);
  return assess(costs, model, recompute, least_missing_cut(StageOptions(costs, model, recompute, forced)));
}

}  // namespace

Cut cut_stages(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
               const std::vector<int>& forced) {
  check(costs, model, recompute, forced);
  return cut_at(costs, model, recompute, points_of(costs, forced));
}

Remedies remedies_for(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
                      const std::vector<int>& forced) {
  check(costs, model, recompute, forced);
  const std::vector<int> points = points_of(costs, forced);
  return remedies(model, recompute, costs.segments(), [&](const PipelineModel& other, const Recompute& way) {
    if (other.stages() == other.ranks()) return any_cut_fits(StageOptions(costs, other, way, points));
    return cut_at(costs, other, way, points).fits();
  });
}

}  // namespace merak
