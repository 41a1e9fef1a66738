#include "planner/period_limits.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>
#include <string>

namespace merak::planner {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What a limit on the period allows, for one number of stages: by longest period, the least sum of passes. The longer
// the period, the less; under the first nothing is possible.
using Steps = std::map<double, double>;

double best_of(const Steps& steps, double weight) {
  double best_s = kInfinity;
  for (const auto& [period_s, passes_s] : steps) best_s = std::min(best_s, passes_s + weight * period_s);
  return best_s;
}

// By number of stages, from 0; of 0 stages there are none.
std::vector<Steps> random_steps(std::mt19937& random, double least_passes_s) {
  const auto from_0_to_1 = [&] { return static_cast<double>(random()) / 4294967296.0; };
  std::vector<Steps> all(1);
  for (int stages = 1 + static_cast<int>(random() % 5); stages > 0; --stages) {
    Steps steps;
    double period_s = 1 + 3 * from_0_to_1(), passes_s = least_passes_s + 200 * from_0_to_1();
    for (int i = 1 + static_cast<int>(random() % 40); i > 0; --i) {
      steps[period_s] = passes_s;
      period_s += 0.3 * from_0_to_1();
      passes_s = least_passes_s + (passes_s - least_passes_s) * (0.7 + 0.3 * from_0_to_1());
    }
    all.push_back(steps);
  }
  return all;
}

// Goes through all trials; how many there were.
int play(PeriodLimits& limits, const std::vector<Steps>& all) {
  int trials = 0;
  while (const auto trial = limits.next()) {
    EXPECT_LT(++trials, 10000);
    for (std::size_t stages = 1; stages < all.size(); ++stages) {
      if (!trial->stages[stages]) continue;
      auto step = all[stages].upper_bound(trial->period_s);
      const bool any = step != all[stages].begin();
      if (any) --step;
      limits.add(static_cast<int>(stages), trial->period_s, any ? step->second : kInfinity, any ? step->first : 0);
    }
  }
  return trials;
}

TEST(PeriodLimits, FindTheBestWithinTheTolerance) {
  for (unsigned seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const std::vector<Steps> all = random_steps(random, 20);
    const double tolerance = 0.01 * static_cast<double>(random() % 6), weight = static_cast<double>(random() % 60);
    std::vector<bool> stages(all.size(), true);
    stages[0] = false;
    PeriodLimits limits(stages, {weight, 20, 1, 40}, tolerance, kInfinity, kInfinity);
    const int trials = play(limits, all);
    double best_s = kInfinity;
    for (std::size_t s = 1; s < all.size(); ++s) {
      const int number = static_cast<int>(s);
      const double step_s = best_of(all[s], weight);
      best_s = std::min(best_s, step_s);
      EXPECT_GE(limits.best_s(number), step_s);
      EXPECT_LE(limits.best_s(number) * (1 - tolerance), step_s * (1 + 1e-9));
      EXPECT_LE(limits.bound_s(number), step_s * (1 + 1e-12));
      EXPECT_GE(limits.bound_s(number), limits.best_s(number) * (1 - tolerance) * (1 - 1e-9));
    }
    EXPECT_LE(limits.bound_s(), best_s * (1 + 1e-12));
    EXPECT_LE(trials, weight == 0 ? 1 : tolerance == 0 ? 300 : 20 + 2 / tolerance);
  }
}

TEST(PeriodLimits, LeaveOutWhatTakesMuchLonger) {
  const std::vector<Steps> all = {{}, {{1, 30}}, {{1.02, 30}}, {{2, 30}}};
  PeriodLimits limits({false, true, true, true}, {100, 20, 1, 40}, 0, 0.1, kInfinity);
  play(limits, all);
  EXPECT_EQ(limits.best_s(1), 130);
  EXPECT_EQ(limits.best_s(2), 132);
  EXPECT_EQ(limits.best_s(3), kInfinity);  // 230 is more than 1.1 times 130, and was not looked for
  EXPECT_GT(limits.bound_s(3), 130);
}

TEST(PeriodLimits, EndWhereEverythingIsFree) {
  PeriodLimits limits({false, true}, {7, 0, 0, 0}, 0, kInfinity, kInfinity);
  EXPECT_EQ(play(limits, {{}, {{0, 0}}}), 1);
  EXPECT_EQ(limits.best_s(1), 0);
  EXPECT_EQ(limits.bound_s(1), 0);
}

}  // namespace
}  // namespace merak::planner
