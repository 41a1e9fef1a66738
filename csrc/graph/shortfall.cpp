#include "graph/shortfall.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace merak {
namespace {

constexpr int kMostTimes = 8;

PipelineModel with_in_flight(PipelineModel model, int most) {
  for (InFlight& one : model.in_flight) {
    one.whole = std::min(one.whole, most);
    one.checkpointed = std::min(one.checkpointed, most - one.whole);
  }
  return model;
}

PipelineModel with_stages(PipelineModel model, int stages) {
  while (model.stages() < stages) {
    InFlight first = model.in_flight.front();
    if (first.whole + first.checkpointed < model.micro_batches) ++first.checkpointed;
    model.in_flight.insert(model.in_flight.begin(), first);
    model.rank_of.push_back(model.stages());
    model.budget_bytes.push_back(model.budget_bytes.front());
  }
  return model;
}

bool one_rank_a_stage_and_alike(const PipelineModel& model) {
  return model.stages() == model.ranks() &&
         std::all_of(model.budget_bytes.begin(), model.budget_bytes.end(),
                     [&](double bytes) { return bytes == model.budget_bytes.front(); });
}

// The first number in [first, end) that holds, if what holds once holds from there on; `end` if none.
int first_that(int first, int end, const std::function<bool(int)>& holds) {
  while (first < end) {
    const int middle = (first + end) / 2;
    if (holds(middle)) {
      end = middle;
    } else {
      first = middle + 1;
    }
  }
  return first;
}

}  // namespace

std::vector<int> least_missing_cut(const StageOptions& options) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const int stages = options.stages(), segments = options.segments();
  std::vector<std::vector<int>> end(stages, std::vector<int>(segments, segments));
  std::vector<double> after(segments + 1, kInfinity);
  after[segments] = 0;
  for (int s = stages - 1; s >= 0; --s) {
    std::vector<double> here(segments + 1, kInfinity);
    for (int a = s; a <= segments - (stages - s); ++a)
      for (int b = a + 1; b <= options.last_end(a); ++b) {
        if (after[b] == kInfinity) continue;
        const double missing = options.missing_bytes(s, {a, b});
        if (std::max(missing, after[b]) < here[a]) here[a] = std::max(missing, after[b]), end[s][a] = b;
        if (missing >= here[a]) break;
      }
    after = std::move(here);
  }
  std::vector<int> points = {0};
  for (int s = 0; s < stages; ++s) points.push_back(end[s][points.back()]);
  return points;
}

bool any_cut_fits(const StageOptions& options) {
  const int segments = options.segments();
  std::vector<bool> reached(segments + 1, false);
  reached[0] = true;
  for (int s = 0; s < options.stages(); ++s) {
    std::vector<bool> next(segments + 1, false);
    int covered = 0;  // of `next`, the points below are done
    for (int a = 0; a < segments; ++a) {
      if (!reached[a]) continue;
      const int furthest = options.furthest(s, a, std::numeric_limits<double>::infinity());
      for (int b = std::max(a + 1, covered); b <= furthest; ++b) next[b] = true;
      covered = std::max(covered, furthest + 1);
    }
    reached = std::move(next);
  }
  return reached[segments];
}

Remedies remedies(const PipelineModel& model, const Recompute& recompute, int segments,
                  const std::function<bool(const PipelineModel&, const Recompute&)>& fits) {
  Remedies found;
  int most = 1;
  for (const InFlight& one : model.in_flight) most = std::max(most, one.whole + one.checkpointed);
  // The first number of micro-batches that is too many.
  found.in_flight = first_that(1, most, [&](int n) { return !fits(with_in_flight(model, n), recompute); }) - 1;
  if (recompute.kind != RecomputeKind::kLeast) found.recompute = fits(model, {});
  const bool by_stage = recompute.kind == RecomputeKind::kShares || recompute.kind == RecomputeKind::kNodes;
  if (by_stage || !one_rank_a_stage_and_alike(model)) return found;
  const int end = std::min(segments, kMostTimes * model.stages()) + 1;
  const int stages = first_that(model.stages() + 1, end, [&](int n) { return fits(with_stages(model, n), recompute); });
  if (stages < end) found.stages = stages;
  return found;
}

}  // namespace merak
