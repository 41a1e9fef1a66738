#include "embedding/update_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "collectives/half.h"

namespace merak {
namespace {

constexpr std::size_t kRows = 12, kColumns = 7;

const UpdateRule kRules[] = {
    {.kind = UpdateKind::kSgd, .rate = 0.3},
    {.kind = UpdateKind::kMomentum, .rate = 0.3, .first = 0.9},
    {.kind = UpdateKind::kAdagrad, .rate = 0.3, .second = 0.1, .epsilon = 1e-10},
    {.kind = UpdateKind::kAdam, .rate = 0.1, .first = 0.9, .second = 0.99, .epsilon = 1e-8},
    {.kind = UpdateKind::kAdam, .rate = 0.1, .first = 0.9, .second = 0.99, .epsilon = 1e-8, .weight_decay = 0.2},
    {.kind = UpdateKind::kRowWiseAdagrad, .rate = 0.3, .epsilon = 1e-10},
};

std::vector<double> mean_squares(const std::vector<double>& gradients) {
  std::vector<double> means(gradients.size() / kColumns);
  for (std::size_t i = 0; i < gradients.size(); ++i) means[i / kColumns] += gradients[i] * gradients[i] / kColumns;
  return means;
}

struct Trained {
  std::vector<double> w, a = std::vector<double>(kRows * kColumns), s = a;

  void step(const UpdateRule& rule, std::uint64_t t, const std::vector<std::int64_t>& ids,
            const std::vector<double>& gradients) {
    const std::vector<double> means = mean_squares(gradients);
    update_rows(rule, t, {DType::kFloat64, w.data(), a.data(), s.data(), kColumns, means.data()}, ids,
                gradients.data());
  }

  // As the header says it.
  void step_obviously(const UpdateRule& rule, double t, const std::vector<std::int64_t>& ids,
                      const std::vector<double>& gradients) {
    const std::vector<double> means = mean_squares(gradients);
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const auto row = static_cast<std::size_t>(ids[i / kColumns]);
      if (rule.kind == UpdateKind::kRowWiseAdagrad && i % kColumns == 0) s[row] += means[i / kColumns];
      const std::size_t at = row * kColumns + i % kColumns;
      const double g = gradients[i], r = rule.rate, m = rule.first, v = rule.second;
      if (rule.kind == UpdateKind::kSgd) w[at] -= r * g;
      if (rule.kind == UpdateKind::kMomentum) a[at] = m * a[at] + g, w[at] -= r * a[at];
      if (rule.kind == UpdateKind::kAdagrad)
        s[at] += g * g, w[at] -= r / (1 + (t - 1) * v) * g / (std::sqrt(s[at]) + rule.epsilon);
      if (rule.kind == UpdateKind::kRowWiseAdagrad) w[at] -= r * g / (std::sqrt(s[row]) + rule.epsilon);
      if (rule.kind != UpdateKind::kAdam) continue;
      w[at] -= r * rule.weight_decay * w[at];
      a[at] += (1 - m) * (g - a[at]), s[at] += (1 - v) * (g * g - s[at]);
      const double corrected = r * std::sqrt(1 - std::pow(v, t)) / (1 - std::pow(m, t));
      w[at] -= corrected * a[at] / (std::sqrt(s[at]) + rule.epsilon);
    }
  }
};

std::vector<double> values(std::size_t count, std::mt19937& random) {
  std::vector<double> drawn(count);
  for (double& value : drawn) value = std::normal_distribution<double>()(random);
  return drawn;
}

std::vector<std::int64_t> some_rows(std::mt19937& random) {
  std::vector<std::int64_t> rows(kRows);
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), random);
  rows.resize(random() % (kRows + 1));
  return rows;
}

TEST(UpdateRows, DoesWhatTheFormulasSay) {
  for (const UpdateRule& rule : kRules) {
    std::mt19937 random(1);
    Trained ours{values(kRows * kColumns, random)}, obvious = ours;
    for (std::uint64_t t = 1; t <= 20; ++t) {
      const std::vector<std::int64_t> ids = some_rows(random);
      const std::vector<double> gradients = values(ids.size() * kColumns, random);
      ours.step(rule, t, ids, gradients);
      obvious.step_obviously(rule, static_cast<double>(t), ids, gradients);
    }
    for (std::size_t i = 0; i < ours.w.size(); ++i)
      EXPECT_NEAR(ours.w[i], obvious.w[i], 1e-12) << static_cast<int>(rule.kind);
  }
}

TEST(UpdateRows, InPartsItIsTheSameBitByBit) {
  for (const UpdateRule& rule : kRules) {
    std::mt19937 random(2);
    Trained once{values(kRows * kColumns, random)}, in_parts = once;
    for (std::uint64_t t = 1; t <= 20; ++t) {
      const std::vector<std::int64_t> ids = some_rows(random);
      const std::vector<double> gradients = values(ids.size() * kColumns, random);
      once.step(rule, t, ids, gradients);
      const auto middle = static_cast<std::ptrdiff_t>(ids.empty() ? 0 : random() % ids.size());
      const auto cut = static_cast<std::ptrdiff_t>(kColumns) * middle;
      in_parts.step(rule, t, {ids.begin() + middle, ids.end()}, {gradients.begin() + cut, gradients.end()});
      in_parts.step(rule, t, {ids.begin(), ids.begin() + middle}, {gradients.begin(), gradients.begin() + cut});
    }
    EXPECT_EQ(once.w, in_parts.w);
    EXPECT_EQ(once.a, in_parts.a);
    EXPECT_EQ(once.s, in_parts.s);
  }
}

TEST(UpdateRows, SixteenBitTablesAreReckonedInFp32) {
  std::vector<BFloat16> w(4, BFloat16(1.0f)), g(4, BFloat16(0.5f));
  std::vector<float> a(4), s(4);
  const UpdateRule rule{.kind = UpdateKind::kMomentum, .rate = 0.5, .first = 0.9};
  const std::vector<std::int64_t> ids = {1};
  update_rows(rule, 1, {DType::kBFloat16, w.data(), a.data(), s.data(), 2}, ids, g.data());
  EXPECT_EQ(static_cast<float>(w[0]), 1.0f);
  EXPECT_EQ(static_cast<float>(w[2]), 0.75f);
  EXPECT_EQ(a, (std::vector<float>{0, 0, 0.5f, 0.5f}));
}

TEST(UpdateRows, IntegersAreRefused) {
  const std::vector<std::int64_t> ids;
  EXPECT_THROW(update_rows({}, 1, {DType::kInt32, nullptr, nullptr, nullptr, 1}, ids, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace merak
