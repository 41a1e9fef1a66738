#include "planner/least_passes.h"

#include <algorithm>
#include <limits>

// -O2 alone vectorises only loops whose length it knows.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

namespace merak::planner {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void lower(double* least, const double* after, double pass_s, int count) {
  for (int i = 0; i < count; ++i) {
    const double sum = after[i] + pass_s;
    least[i] = sum < least[i] ? sum : least[i];
  }
}

}  // namespace

LeastPasses::LeastPasses(ShapedOptions& options)
    : options_(options), reach_(options), numbers_(options.devices() + 1), runs_(options.shapes()) {
  for (int shape = 0; shape < options.shapes(); ++shape) {
    const std::vector<char>& may_begin = options.may_begin(shape);
    for (int left = 0; left < numbers_; ++left) {
      if (!may_begin[left]) continue;
      if (left == 0 || !may_begin[left - 1]) runs_[shape].push_back({left, left});
      runs_[shape].back().end = left + 1;
    }
  }
}

void LeastPasses::find(double period_s, const std::vector<bool>& stages) {
  options_.limit_periods(period_s);
  reach_.find(stages, [&](int shape, int behind, int from) {
    return from + static_cast<int>(options_.row(shape, behind, from).size());
  });
  int most = options_.max_stages();
  while (most > 0 && !stages[most]) --most;
  const std::size_t rows = row_at(most + 1, 0);
  if (sums_.size() < rows * numbers_) sums_.resize(rows * numbers_);
  known_.assign(row_at(options_.max_stages() + 1, 0), LeftRange{});
  known_[row_at(0, options_.segments())] = {0, 0};
  *sums(0, options_.segments()) = 0;
  for (int to_come = 1; to_come <= most; ++to_come)
    for (int point = options_.segments() - to_come; point >= 0; --point) find_here(to_come, point);
}

void LeastPasses::find_here(int to_come, int point) {
  const LeftRange range = reach_.left(to_come, point);
  if (range.least > range.most) return;
  double* const here = sums(to_come, point);
  std::fill(here + range.least, here + range.most + 1, kInfinity);
  for (int shape = 0; shape < options_.shapes(); ++shape)
    if (options_.may_have(shape, to_come - 1)) find_with(shape, to_come, point);
  LeftRange known = range;
  while (known.least <= known.most && here[known.least] == kInfinity) ++known.least;
  while (known.least <= known.most && here[known.most] == kInfinity) --known.most;
  known_[row_at(to_come, point)] = known;
}

void LeastPasses::find_with(int shape, int to_come, int point) {
  const LeftRange range = reach_.left(to_come, point);
  const int width = options_.width(shape);
  double* const here = sums(to_come, point);
  int end = point;
  for (const StageOption& option : options_.row(shape, to_come - 1, point)) {
    ++end;
    const LeftRange after = known_[row_at(to_come - 1, end)];
    const int least = std::max(range.least, after.least + width), most = std::min(range.most, after.most + width);
    if (least > most) continue;
    const double* const from = sums(to_come - 1, end);
    for (const Run& run : runs_[shape]) {
      const int first = std::max(run.first, least), count = std::min(run.end, most + 1) - first;
      if (count > 0) lower(here + first, from + (first - width), option.pass_s, count);
    }
  }
}

double LeastPasses::passes_s(int stages) const {
  const std::size_t row = row_at(stages, 0);
  const bool known = known_[row].least <= options_.devices() && options_.devices() <= known_[row].most;
  return known ? sums_[row * numbers_ + options_.devices()] : kInfinity;
}

Arrangement LeastPasses::arrangement(int stages) {
  Arrangement found;
  int left = options_.devices();
  for (int to_come = stages; to_come > 0; --to_come) {
    const int from = found.points.back();
    StageOption best;
    double least_s = kInfinity;
    int best_shape = 0, best_end = 0;
    for (int shape = 0; shape < options_.shapes(); ++shape) {
      if (!options_.may_begin(shape)[left] || !options_.may_have(shape, to_come - 1)) continue;
      int end = from;
      const int after = left - options_.width(shape);
      for (const StageOption& option : options_.row(shape, to_come - 1, from)) {
        const LeftRange known = known_[row_at(to_come - 1, ++end)];
        if (after < known.least || after > known.most) continue;
        const double sum = sums(to_come - 1, end)[after] + option.pass_s;
        if (sum < least_s) least_s = sum, best = option, best_shape = shape, best_end = end;
      }
    }
    found.points.push_back(best_end), found.shapes.push_back(best_shape);
    found.bottleneck_s = std::max(found.bottleneck_s, best.period_s);
    left -= options_.width(best_shape);
  }
  return found;
}

}  // namespace merak::planner
