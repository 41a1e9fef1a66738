#include "planner/shaped_options.h"

#include <algorithm>
#include <limits>

namespace merak::planner {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double work_s(const IntervalCosts& costs, Interval stage) {
  const int first = costs.node_at(stage.from), end = costs.node_at(stage.to);
  return costs.forward_s(first, end) + costs.backward_s(first, end);
}

}  // namespace

ShapedOptions::ShapedOptions(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned)
    : shapes_(shapes), model_(model), pinned_(pinned), recompute_{.kind = model.recompute} {
  max_stages_ = std::min({model.max_stages, segments(), devices()});
  find_kinds();
  furthest_.resize(row_at(shapes_.size(), 0, 0));
  rows_.resize(furthest_.size());
  for (int shape = 0; shape < this->shapes(); ++shape) add_shape(shape);
  find_bounds();
}

void ShapedOptions::find_kinds() {
  for (int behind = 0; behind < max_stages_; ++behind) {
    const InFlight& flight = model_.in_flight[behind];
    const auto kind = std::find(kinds_.begin(), kinds_.end(), flight);
    kind_of_.push_back(static_cast<int>(kind - kinds_.begin()));
    if (kind == kinds_.end()) kinds_.push_back(flight);
  }
}

void ShapedOptions::add_shape(int number) {
  const StageShape& shape = shapes_[number];
  const int kinds = static_cast<int>(kinds_.size());
  models_.push_back(std::make_unique<PipelineModel>(PipelineModel{.rank_of = std::vector<int>(kinds, 0),
                                                                  .in_flight = kinds_,
                                                                  .micro_batches = model_.micro_batches,
                                                                  .state_factor = shape.state_factor,
                                                                  .budget_bytes = {shape.budget_bytes},
                                                                  .latency_s = shape.latency_s,
                                                                  .bytes_per_s = shape.bytes_per_s,
                                                                  .hides_communication = model_.hides_communication}));
  options_.push_back(std::make_unique<StageOptions>(*shape.costs, *models_.back(), recompute_, pinned_.boundaries));
  std::vector<char> may_begin(devices() + 1, 0);
  for (int left = shape.devices; left <= devices(); ++left)
    may_begin[left] = shape.may_begin.empty() || shape.may_begin[devices() - left];
  may_begin_.push_back(std::move(may_begin));
  for (int kind = 0; kind < kinds; ++kind)
    for (int from = 0; from < segments(); ++from) {
      const int furthest = options_.back()->furthest(kind, from, kInfinity);
      furthest_[row_at(number, kind, from)] = furthest;
      Row& row = rows_[row_at(number, are_alike(number) ? 0 : kind, from)];
      row.most = std::max(row.most, furthest - from);
    }
}

// Without a choice of what to recompute, micro-batches in flight limit how far a stage goes, and nothing else.
bool ShapedOptions::are_alike(int shape) const {
  return model_.recompute != RecomputeKind::kLeast || shapes_[shape].budget_bytes == kInfinity;
}

void ShapedOptions::find_bounds() {
  double device_seconds = 0;
  for (int at = 0; at < segments(); ++at) {
    double least_s = kInfinity, least_device_s = kInfinity;
    for (const StageShape& shape : shapes_) {
      const double segment_s = work_s(*shape.costs, {at, at + 1});
      least_s = std::min(least_s, segment_s);
      least_device_s = std::min(least_device_s, shape.devices * segment_s);
    }
    least_passes_s_ += least_s;
    least_period_s_ = std::max(least_period_s_, least_s);
    device_seconds += least_device_s;
  }
  least_period_s_ = std::max(least_period_s_, device_seconds / devices());
  double most_bytes = 0;
  for (int shape = 0; shape < shapes(); ++shape) {
    double bytes = 0;  // what a stage receives is no more than its segments would
    for (int at = 0; at < segments(); ++at) bytes += options_[shape]->crossing_bytes({at, at + 1});
    most_bytes = std::max(most_bytes, bytes);
    const StageShape& one = shapes_[shape];
    const Interval all = {0, segments()};
    most_period_s_ =
        std::max(most_period_s_, 2 * work_s(*one.costs, all) + 2 * one.latency_s + bytes / one.bytes_per_s +
                                     one.once_s_per_byte * one.costs->parameter_bytes(all));
  }
  if (most_bytes > 0) tie_s_per_byte_ = kTie * least_passes_s_ / most_bytes;
}

bool ShapedOptions::may_have(int shape, int behind) const {
  if (pinned_.shapes.empty()) return true;
  const int stage = pinned_.stages - 1 - behind;
  return stage < 0 || pinned_.shapes[stage] < 0 || pinned_.shapes[stage] == shape;
}

StageOption ShapedOptions::option(int shape, int kind, Interval stage) const {
  StageOption option = options_[shape]->option(kind, stage);
  const double once_s = shapes_[shape].once_s_per_byte * shapes_[shape].costs->parameter_bytes(stage);
  option.period_s += once_s / model_.micro_batches;
  option.pass_s += once_s / model_.micro_batches + tie_s_per_byte_ * options_[shape]->crossing_bytes(stage);
  return option;
}

void ShapedOptions::limit_periods(double period_s) {
  limit_s_ = period_s;
  ++limits_;
}

std::span<const StageOption> ShapedOptions::row(int shape, int behind, int from) {
  const int kind = are_alike(shape) ? 0 : kind_of_[behind];
  Row& row = rows_[row_at(shape, kind, from)];
  if (row.limit != limits_) extend(row, shape, kind, from);
  return {row.options.data(), static_cast<std::size_t>(std::min(row.within, furthest(shape, behind, from) - from))};
}

void ShapedOptions::extend(Row& row, int shape, int kind, int from) const {
  for (int to = from + static_cast<int>(row.options.size()) + 1; to <= from + row.most; ++to) {
    if (!row.options.empty() && row.options.back().period_s > limit_s_) break;
    row.options.push_back(option(shape, kind, {from, to}));
  }
  const auto end = std::upper_bound(row.options.begin(), row.options.end(), limit_s_,
                                    [](double limit_s, const StageOption& one) { return limit_s < one.period_s; });
  row.within = static_cast<int>(end - row.options.begin());
  row.limit = limits_;
}

}  // namespace merak::planner
