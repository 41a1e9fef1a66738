#include "planner/stage_search.h"

#include <algorithm>
#include <map>
#include <optional>

#include "planner/device_reach.h"
#include "planner/least_passes.h"
#include "planner/period_limits.h"
#include "planner/shaped_options.h"

namespace merak::planner {
namespace {

constexpr double kRounding = 1e-9;  // with room for what ties are charged, kTie

PeriodBounds bounds_of(const ShapedOptions& options) {
  return {.weight = options.weight(),
          .least_passes_s = options.least_passes_s(),
          .least_period_s = options.least_period_s(),
          .most_period_s = options.most_period_s()};
}

}  // namespace

SearchResult search_stages(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned) {
  check_search(shapes, model, pinned);
  ShapedOptions options(shapes, model, pinned);
  PeriodLimits limits(stages_that_fit(options), bounds_of(options), model.tolerance, model.within, model.most_s);
  LeastPasses passes(options);
  std::map<int, Arrangement> best;  // by number of stages
  SearchResult result;
  while (const std::optional<PeriodLimits::Trial> trial = limits.next()) {
    ++result.trials;
    passes.find(trial->period_s, trial->stages);
    for (int stages = 1; stages <= options.max_stages(); ++stages) {
      if (!trial->stages[stages]) continue;
      const double passes_s = passes.passes_s(stages);
      const bool any = passes_s < std::numeric_limits<double>::infinity();
      const Arrangement found = any ? passes.arrangement(stages) : Arrangement{};
      if (limits.add(stages, trial->period_s, passes_s, found.bottleneck_s)) best[stages] = found;
    }
  }
  for (const auto& [stages, arrangement] : best) {
    if (limits.best_s(stages) > std::min(limits.best_s() * (1 + model.within), model.most_s)) continue;
    FoundStages found = place(shapes, model, arrangement.points, arrangement.shapes);
    found.bound_s = std::min(found.step_s, limits.bound_s(stages) * (1 - kRounding));
    result.found.push_back(std::move(found));
  }
  std::stable_sort(result.found.begin(), result.found.end(),
                   [](const FoundStages& a, const FoundStages& b) { return a.step_s < b.step_s; });
  result.bound_s = limits.bound_s() * (1 - kRounding);
  if (!result.found.empty()) result.bound_s = std::min(result.bound_s, result.found.front().step_s);
  return result;
}

}  // namespace merak::planner
