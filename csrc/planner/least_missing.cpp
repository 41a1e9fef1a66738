#include "planner/least_missing.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "planner/device_reach.h"
#include "planner/shaped_options.h"

namespace merak::planner {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class LeastMissing {
 public:
  explicit LeastMissing(const ShapedOptions& options)
      : options_(options),
        numbers_(options.devices() + 1),
        rows_(options.segments() + 1),
        missing_(static_cast<std::size_t>(options.max_stages() + 1) * rows_ * numbers_, kInfinity) {
    *of(0, options.segments()) = 0;
    for (int to_come = 1; to_come <= options.max_stages(); ++to_come)
      for (int point = 0; point < options.segments(); ++point) find_here(to_come, point);
  }

  double missing_bytes(int stages) { return of(stages, 0)[options_.devices()]; }

  void follow(int stages, std::vector<int>& points, std::vector<int>& shapes) {
    points = {0};
    for (int left = options_.devices(), to_come = stages; to_come > 0; --to_come) {
      double least = kInfinity;
      int best_shape = 0, best_end = 0;
      each_option(to_come, points.back(), [&](int shape, int end, double missing) {
        if (!options_.may_begin(shape)[left]) return;
        missing = std::max(missing, of(to_come - 1, end)[left - options_.width(shape)]);
        if (missing < least) least = missing, best_shape = shape, best_end = end;
      });
      points.push_back(best_end), shapes.push_back(best_shape);
      left -= options_.width(best_shape);
    }
  }

 private:
  // By devices left.
  double* of(int to_come, int point) {
    return &missing_[(static_cast<std::size_t>(to_come) * rows_ + point) * numbers_];
  }

  template <typename Visit>
  void each_option(int to_come, int point, Visit visit) {
    const int last = options_.last_end(point);
    for (int shape = 0; shape < options_.shapes(); ++shape)
      if (options_.may_have(shape, to_come - 1))
        for (int end = point + 1; end <= last; ++end)
          visit(shape, end, options_.missing_bytes(shape, to_come - 1, {point, end}));
  }

  void find_here(int to_come, int point) {
    double* const here = of(to_come, point);
    each_option(to_come, point, [&](int shape, int end, double missing) {
      const double* const after = of(to_come - 1, end);
      const int width = options_.width(shape);
      const std::vector<char>& may_begin = options_.may_begin(shape);
      for (int left = width; left < numbers_; ++left)
        if (may_begin[left]) here[left] = std::min(here[left], std::max(missing, after[left - width]));
    });
  }

  const ShapedOptions& options_;
  int numbers_, rows_;           // of devices, 0 included; of points
  std::vector<double> missing_;  // by stages to come, by point, by devices left: bytes
};

bool any_fits(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned) {
  const std::vector<bool> fit = stages_that_fit(ShapedOptions(shapes, model, pinned));
  return std::find(fit.begin(), fit.end(), true) != fit.end();
}

SearchModel with_in_flight(SearchModel model, int most) {
  for (InFlight& one : model.in_flight) {
    one.whole = std::min(one.whole, most);
    one.checkpointed = std::min(one.checkpointed, most - one.whole);
  }
  return model;
}

std::string widths_of(const std::vector<StageShape>& shapes) {
  std::string text;
  for (const StageShape& shape : shapes) text += (text.empty() ? "" : ", ") + std::to_string(shape.devices);
  return text;
}

}  // namespace

FoundStages least_missing(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned) {
  check_search(shapes, model, pinned);
  const ShapedOptions options(shapes, model, pinned);
  LeastMissing missing(options);
  int best = 0;
  double least = kInfinity;
  for (int stages = 1; stages <= options.max_stages(); ++stages)
    if (options.may_number(stages) && missing.missing_bytes(stages) < least)
      least = missing.missing_bytes(stages), best = stages;
  if (best == 0)
    throw std::invalid_argument(
        "no " + (pinned.stages > 0 ? std::to_string(pinned.stages) : "1 to " + std::to_string(model.max_stages)) +
        " stages on " + widths_of(shapes) + " devices each, between " + std::to_string(options.segments() + 1) +
        " points, take all " + std::to_string(model.devices) +
        " devices, as far as shapes, places and boundaries are given; give fewer of them, or other shapes");
  std::vector<int> points, shape_of_stage;
  missing.follow(best, points, shape_of_stage);
  return place(shapes, model, points, shape_of_stage);
}

SearchRemedies search_remedies(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned) {
  check_search(shapes, model, pinned);
  SearchRemedies found;
  if (model.recompute != RecomputeKind::kLeast) {
    SearchModel least = model;
    least.recompute = RecomputeKind::kLeast;
    found.recompute = any_fits(shapes, least, pinned);
  }
  int most = 1;
  for (const InFlight& one : model.in_flight) most = std::max(most, one.whole + one.checkpointed);
  int some = 0;  // that do; `most` do not
  while (most - some > 1) {
    const int middle = (some + most) / 2;
    (any_fits(shapes, with_in_flight(model, middle), pinned) ? some : most) = middle;
  }
  found.in_flight = some;
  if (pinned.stages > 0) {
    const Pinned free{.boundaries = pinned.boundaries};
    const std::vector<bool> fit = stages_that_fit(ShapedOptions(shapes, model, free));
    const auto first = std::find(fit.begin(), fit.end(), true);
    if (first != fit.end()) found.stages = static_cast<int>(first - fit.begin());
  }
  return found;
}

}  // namespace merak::planner
