#include "graph/uniform_cut.h"

#include <algorithm>
#include <cmath>

namespace merak {
namespace {

constexpr int kBisections = 40;

Cut with_share(const IntervalCosts& costs, const PipelineModel& model, const std::vector<int>& points, double share) {
  const Recompute recompute{.kind = RecomputeKind::kShares, .shares = std::vector<double>(model.rank_of.size(), share)};
  return assess(costs, model, recompute, points);
}

}  // namespace

std::vector<int> uniform_points(const IntervalCosts& costs, int stages, Weight weight) {
  const auto before = [&](int point) {
    return weight == Weight::kNodes ? costs.node_at(point) : costs.parameter_bytes({0, point});
  };
  const double all = before(costs.segments());
  std::vector<int> points = {0};
  for (int s = 1; s < stages; ++s) {
    const double target = all * s / stages;
    int point = points.back() + 1;
    const int last = costs.segments() - (stages - s);
    while (point < last && std::abs(before(point + 1) - target) <= std::abs(before(point) - target)) ++point;
    points.push_back(point);
  }
  points.push_back(costs.segments());
  return points;
}

UniformCut uniform_recompute(const IntervalCosts& costs, const PipelineModel& model, const std::vector<int>& points) {
  UniformCut best{.cut = with_share(costs, model, points, 0), .share = 0};
  if (best.cut.fits()) return best;
  best = {.cut = with_share(costs, model, points, 1), .share = 1};
  double below = 0;
  for (int i = 0; i < kBisections && best.cut.fits(); ++i) {
    const double share = (below + best.share) / 2;
    Cut cut = with_share(costs, model, points, share);
    if (cut.fits()) {
      best = {.cut = std::move(cut), .share = share};
    } else {
      below = share;
    }
  }
  return best;
}

}  // namespace merak
