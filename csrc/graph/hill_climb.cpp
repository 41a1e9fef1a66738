#include "graph/hill_climb.h"

#include <algorithm>

namespace merak {
namespace {

constexpr int kRounds = 50;

class Climb {
 public:
  Climb(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
        const std::vector<int>& forced, const std::vector<int>& start)
      : costs_(costs),
        model_(model),
        recompute_(recompute),
        forced_(forced),
        best_(assess(costs, model, recompute, start)) {}

  Cut run() {
    for (int round = 0; round < kRounds && improve(); ++round) {
    }
    return std::move(best_);
  }

 private:
  bool improve() {
    bool improved = false;
    for (int first = 1; first < model_.stages(); ++first)
      for (int count = 1; first + count <= model_.stages(); count *= 2)
        for (int by = 1; by < costs_.segments(); by *= 2)
          for (int shift : {by, -by}) improved = try_move(first, count, shift) || improved;
    return improved;
  }

  bool try_move(int first, int count, int shift) {
    std::vector<int> points = best_.points;
    for (int k = first; k < first + count; ++k) {
      if (std::binary_search(forced_.begin(), forced_.end(), points[k])) return false;
      points[k] += shift;
    }
    if (points[first] <= points[first - 1] || points[first + count - 1] >= points[first + count]) return false;
    Cut cut = assess(costs_, model_, recompute_, points);
    if (!is_better(cut, best_)) return false;
    best_ = std::move(cut);
    return true;
  }

  const IntervalCosts& costs_;
  const PipelineModel& model_;
  const Recompute& recompute_;
  const std::vector<int>& forced_;
  Cut best_;
};

}  // namespace

Cut hill_climb(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
               const std::vector<int>& forced, const std::vector<std::vector<int>>& starts) {
  Cut best = Climb(costs, model, recompute, forced, starts.front()).run();
  for (std::size_t i = 1; i < starts.size(); ++i) {
    Cut cut = Climb(costs, model, recompute, forced, starts[i]).run();
    if (is_better(cut, best)) best = std::move(cut);
  }
  return best;
}

}  // namespace merak
