#include "graph/exact_cut.h"

#include <algorithm>
#include <limits>

namespace merak {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1e-9;  // of a time: so little is nothing
constexpr int kBisections = 50;

// Of the stages from some point on: the sum of their passes, then the bytes that cross.
struct Rest {
  double pass_s = kInfinity, crossing_bytes = 0;
  int end = -1;  // of the first of them

  bool is_less(const Rest& other) const {
    if (pass_s < other.pass_s * (1 - kRounding)) return true;
    return pass_s * (1 - kRounding) <= other.pass_s && crossing_bytes < other.crossing_bytes;
  }
};

struct Candidate {
  std::vector<int> points;
  double pass_s = kInfinity, bottleneck_s = 0, crossing_bytes = 0;
};

class ExactCut {
 public:
  ExactCut(StageOptions& options, double weight, double all_nodes_s)
      : options_(options),
        weight_(weight),
        all_nodes_s_(all_nodes_s),
        stages_(options.stages()),
        segments_(options.segments()),
        lowest_(stages_ + 1, 0),
        highest_(stages_ + 1, 0),
        rest_(stages_ + 1, std::vector<Rest>(segments_ + 1)) {}

  std::optional<std::vector<int>> run() {
    limit_s_ = weight_ > 0 ? (greedy_step_s() - all_nodes_s_) / weight_ * (1 + kRounding) : kInfinity;
    if (!find_reach()) return std::nullopt;
    const double least_s = least_bottleneck() * (1 + 1e-12);
    if (least_s == kInfinity) return std::nullopt;
    Candidate best = least_passes(least_s);
    const auto time = [&](const Candidate& cut) { return cut.pass_s + weight_ * cut.bottleneck_s; };
    if (weight_ == 0) return least_passes(limit_s_).points;
    double limit_s = limit_s_;
    while (limit_s > least_s) {
      const Candidate next = least_passes(limit_s);
      if (time(next) < time(best) * (1 - kRounding) ||
          (time(next) * (1 - kRounding) <= time(best) && next.crossing_bytes < best.crossing_bytes))
        best = next;
      limit_s = std::min(next.bottleneck_s * (1 - 1e-12), (time(best) * (1 + kRounding) - next.pass_s) / weight_);
    }
    return best.points;
  }

 private:
  int latest_end(int stage) const { return segments_ - (stages_ - 1 - stage); }

  // Whether each stage, going as far as it may, reaches the end within that period; and the time of that cut.
  double greedy_step_s(double period_s) const {
    double passes_s = 0, bottleneck_s = 0;
    int at = 0;
    for (int s = 0; s < stages_; ++s) {
      const int to = std::min(options_.furthest(s, at, period_s), latest_end(s));
      if (to <= at) return kInfinity;
      const StageOption option = options_.option(s, {at, to});
      passes_s += option.pass_s;
      bottleneck_s = std::max(bottleneck_s, option.period_s);
      at = to;
    }
    return at == segments_ ? passes_s + weight_ * bottleneck_s : kInfinity;
  }

  double greedy_step_s() const {
    double reaches_s = kInfinity, best_s = greedy_step_s(kInfinity), below_s = 0;
    double try_s = all_nodes_s_ / stages_;
    for (int i = 0; i < kBisections; ++i) {
      const double step_s = greedy_step_s(try_s);
      best_s = std::min(best_s, step_s);
      (step_s < kInfinity ? reaches_s : below_s) = try_s;
      try_s = reaches_s < kInfinity ? (below_s + reaches_s) / 2 : 2 * try_s;
    }
    return best_s;
  }

  // The points where stage s may begin: from lowest_[s] to highest_[s]. Whether there are any.
  bool find_reach() {
    for (int s = 0; s < stages_; ++s) {
      highest_[s + 1] = 0;
      for (int a = s; a <= highest_[s]; ++a)
        highest_[s + 1] = std::max(highest_[s + 1], options_.furthest(s, a, limit_s_));
      highest_[s + 1] = std::min(highest_[s + 1], latest_end(s));
    }
    if (highest_[stages_] < segments_) return false;
    lowest_[stages_] = segments_;
    for (int s = stages_ - 1; s >= 0; --s) {
      lowest_[s] = s;
      while (lowest_[s] <= highest_[s] && options_.furthest(s, lowest_[s], limit_s_) < lowest_[s + 1]) ++lowest_[s];
      if (lowest_[s] > highest_[s]) return false;
    }
    return true;
  }

  // Calls visit(b, option) for every end of stage s from point a on, within a period.
  template <typename Visit>
  void each_end(int s, int a, double period_s, Visit visit) {
    const std::vector<StageOption>& row = options_.row(s, a, limit_s_);
    const int last = std::min(highest_[s + 1], a + static_cast<int>(row.size()));
    for (int b = std::max(lowest_[s + 1], a + 1); b <= last; ++b) {
      const StageOption& option = row[b - a - 1];
      if (option.period_s > period_s) break;
      visit(b, option);
    }
  }

  double least_bottleneck() {
    std::vector<double> after(segments_ + 1, kInfinity), here = after;
    after[segments_] = 0;
    for (int s = stages_ - 1; s >= 0; --s) {
      std::fill(here.begin(), here.end(), kInfinity);
      for (int a = lowest_[s]; a <= highest_[s]; ++a)
        each_end(s, a, limit_s_, [&](int b, const StageOption& option) {
          here[a] = std::min(here[a], std::max(option.period_s, after[b]));
        });
      std::swap(here, after);
    }
    return after[0];
  }

  Candidate least_passes(double period_s) {
    rest_[stages_][segments_] = {.pass_s = 0, .crossing_bytes = 0, .end = -1};
    for (int s = stages_ - 1; s >= 0; --s)
      for (int a = lowest_[s]; a <= highest_[s]; ++a) {
        Rest least;
        each_end(s, a, period_s, [&](int b, const StageOption& option) {
          const Rest& after = rest_[s + 1][b];
          const double pass_s = option.pass_s + after.pass_s;
          if (pass_s * (1 - kRounding) > least.pass_s || pass_s == kInfinity) return;
          const Rest rest = {pass_s, options_.crossing_bytes({a, b}) + after.crossing_bytes, b};
          if (rest.is_less(least)) least = rest;
        });
        rest_[s][a] = least;
      }
    return follow();
  }

  Candidate follow() {
    Candidate cut{.points = {0}, .pass_s = rest_[0][0].pass_s, .crossing_bytes = rest_[0][0].crossing_bytes};
    for (int s = 0; s < stages_; ++s) {
      const int from = cut.points.back(), to = rest_[s][from].end;
      cut.bottleneck_s = std::max(cut.bottleneck_s, options_.row(s, from, limit_s_)[to - from - 1].period_s);
      cut.points.push_back(to);
    }
    return cut;
  }

  StageOptions& options_;
  double weight_, all_nodes_s_;
  int stages_, segments_;
  double limit_s_ = kInfinity;           // no better cut has a bottleneck above
  std::vector<int> lowest_, highest_;    // by stage: the points where it may begin
  std::vector<std::vector<Rest>> rest_;  // by stage, by point
};

}  // namespace

std::optional<std::vector<int>> exact_cut(StageOptions& options, double weight, double all_nodes_s) {
  return ExactCut(options, weight, all_nodes_s).run();
}

}  // namespace merak
