#include "data/admission.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "data/sort_values.h"

namespace merak::data {
namespace {

constexpr std::uint32_t kNever = std::numeric_limits<std::uint32_t>::max();

void check(const PacingTable& table) {
  if (table.empty() || table.size() >= kNever) throw std::invalid_argument("a pacing needs 1 to 2^32 - 2 steps");
  if (!std::is_sorted(table.begin(), table.end())) throw std::invalid_argument("a pacing's difficulty must not fall");
}

}  // namespace

void Admission::delay(std::size_t sample, std::size_t step, std::size_t of_steps) {
  const std::uint32_t then = step == of_steps ? kNever : static_cast<std::uint32_t>(step);
  steps_[sample] = std::max(steps_[sample], then);
}

void Admission::limit_values(const double* values, const PacingTable& table) {
  check(table);
  for (std::size_t sample = 0; sample < steps_.size(); ++sample) {
    if (std::isnan(values[sample]))
      throw std::invalid_argument("the value of sample " + std::to_string(sample) + " is not a number (NaN)");
    const auto first = std::lower_bound(table.begin(), table.end(), values[sample]);
    delay(sample, static_cast<std::size_t>(first - table.begin()), table.size());
  }
  last_ = std::max(last_, table.size() - 1);
}

void Admission::limit_percentiles(const double* values, const PacingTable& table, std::uint64_t seed) {
  check(table);
  const std::vector<std::uint32_t> order = ascending_order(values, steps_.size(), seed);
  std::size_t step = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    const double percentile = 100.0 * static_cast<double>(k + 1) / static_cast<double>(order.size());
    while (step < table.size() && table[step] < percentile) ++step;
    delay(order[k], step, table.size());
  }
  last_ = std::max(last_, table.size() - 1);
}

AdmissionOrder Admission::order() const {
  AdmissionOrder result;
  result.admitted.assign(last_ + 1, 0);
  for (std::uint32_t step : steps_)
    if (step != kNever) ++result.admitted[step];
  std::vector<std::uint64_t> next(last_ + 1, 0);
  for (std::size_t step = 1; step <= last_; ++step) {
    next[step] = result.admitted[step - 1];
    result.admitted[step] += result.admitted[step - 1];
  }
  result.samples.resize(result.admitted[last_]);
  for (std::size_t sample = 0; sample < steps_.size(); ++sample)
    if (steps_[sample] != kNever) result.samples[next[steps_[sample]]++] = static_cast<std::uint32_t>(sample);
  return result;
}

}  // namespace merak::data
