#include "planner/period_limits.h"

#include <algorithm>

namespace merak::planner {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kGrowth = 1.25;
constexpr double kFirst = 1.05;       // times the least period
constexpr double kLeastShare = 1e-3;  // of the longest period, where the least is as good as nothing
constexpr double kRounding = 1e-9;    // of a period: so little is nothing
constexpr double kBelow = 1 - 1e-12;  // times a period: the next below

}  // namespace

PeriodLimits::PeriodLimits(const std::vector<bool>& stages, const PeriodBounds& bounds, double tolerance, double within,
                           double most_s)
    : stages_(stages),
      bounds_(bounds),
      tolerance_(tolerance),
      within_(within),
      most_s_(most_s),
      known_(stages.size()),
      best_s_(stages.size(), kInfinity),
      ascending_s_(std::max(kFirst * bounds.least_period_s, kLeastShare * bounds.most_period_s)) {
  bounds_.most_period_s *= 1 + kRounding;
}

std::optional<PeriodLimits::Trial> PeriodLimits::next() {
  std::vector<double> ends(stages_.size(), 0);
  double highest_s = -kInfinity;
  for (std::size_t s = 0; s < stages_.size(); ++s) {
    ends[s] = stages_[s] ? open_end(static_cast<int>(s)) : -kInfinity;
    highest_s = std::max(highest_s, ends[s]);
  }
  if (highest_s == -kInfinity) return std::nullopt;
  Trial trial;
  if (ascending_s_ < highest_s && bounds_.weight > 0) {
    trial.period_s = ascending_s_;
    ascending_s_ *= kGrowth;
  } else {
    trial.period_s = highest_s * kBelow;
    ascending_s_ = kInfinity;
  }
  for (double end : ends) trial.stages.push_back(end >= trial.period_s * (1 - tolerance_ / 2));
  return trial;
}

bool PeriodLimits::add(int stages, double period_s, double passes_s, double bottleneck_s) {
  std::vector<Known>& known = known_[stages];
  const auto at =
      std::find_if(known.begin(), known.end(), [&](const Known& other) { return other.period_s < period_s; });
  known.insert(at, {period_s, passes_s, bottleneck_s});
  const double step_s = passes_s == kInfinity ? kInfinity : passes_s + bounds_.weight * bottleneck_s;
  if (step_s >= best_s_[stages]) return false;
  best_s_[stages] = step_s;
  best_of_all_s_ = std::min(best_of_all_s_, step_s);
  return true;
}

double PeriodLimits::end_of(double target_s, double passes_s) const {
  const double room_s = target_s - passes_s;
  if (bounds_.weight > 0) return room_s / bounds_.weight;
  return room_s > 0 ? kInfinity : -kInfinity;
}

double PeriodLimits::target_s(int stages) const {
  return std::min({best_s_[stages] * (1 - tolerance_), best_of_all_s_ * (1 + within_), most_s_});
}

// -infinity if all is closed.
double PeriodLimits::open_end(int stages) const {
  const double target_s = this->target_s(stages);
  double end_s = std::min(bounds_.most_period_s, end_of(target_s, bounds_.least_passes_s));
  for (const Known& known : known_[stages]) {
    if (known.period_s < end_s * (kBelow * kBelow)) break;
    if (known.passes_s == kInfinity) return -kInfinity;
    end_s = std::min({end_s, known.bottleneck_s, end_of(target_s, known.passes_s)});
  }
  const bool found = best_s_[stages] < kInfinity;
  const double least_s = bounds_.least_period_s;
  return end_s > least_s * (1 + kRounding) || (!found && end_s >= least_s) ? end_s : -kInfinity;
}

double PeriodLimits::bound_s(int stages) const {
  double bound_s = best_s_[stages], passes_s = bounds_.least_passes_s;  // of those with longer periods than the next
  for (const Known& known : known_[stages]) {
    const bool any_longer = known.period_s < bounds_.most_period_s * (kBelow * kBelow);
    if (any_longer) bound_s = std::min(bound_s, passes_s + bounds_.weight * known.period_s);
    passes_s = known.passes_s;
  }
  bound_s = std::min(bound_s, passes_s + bounds_.weight * bounds_.least_period_s);
  return std::max(bound_s, std::min(best_s_[stages], target_s(stages)));
}

double PeriodLimits::bound_s() const {
  double bound_s = kInfinity;
  for (std::size_t s = 0; s < stages_.size(); ++s)
    if (stages_[s]) bound_s = std::min(bound_s, this->bound_s(static_cast<int>(s)));
  return bound_s;
}

}  // namespace merak::planner
