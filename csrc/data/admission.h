#pragma once
// When a curriculum admits which sample.
//
// A *pacing* says for each step up to which *difficulty* samples are admitted: values of a metric, or percentiles of
// them. With it turned round, a sample has an *admission step*, the first at which the pacing has reached its
// difficulty; with several metrics it is the latest of theirs. A sort by admission steps makes one list of all samples,
// of which those admitted at a step are the first so many. Nothing else is kept, however many metrics there are.
//
// After C. Li et al., "DeepSpeed Data Efficiency: improving deep learning model quality and training efficiency via
// efficient data sampling and routing", 2022, which keeps files of clusters of samples instead.
//
// The percentile of the sample that is k-th of n in ascending order is 100 (k + 1) / n; equal values are ordered at
// random (sort_values.h).

#include <cstddef>
#include <cstdint>
#include <vector>

namespace merak::data {

// By step the highest difficulty that is admitted, not falling; after the last step it stays.
using PacingTable = std::vector<double>;

// Samples in the order of their admission.
struct AdmissionOrder {
  std::vector<std::uint32_t> samples;   // those that some step admits
  std::vector<std::uint64_t> admitted;  // by step, how many of them; it stays after the last

  std::uint64_t admitted_at(std::uint64_t step) const {
    return admitted[step < admitted.size() ? static_cast<std::size_t>(step) : admitted.size() - 1];
  }
};

class Admission {
 public:
  explicit Admission(std::size_t samples) : steps_(samples, 0) {}

  // A metric, `values` having a number for each sample. Throws std::invalid_argument at a value that is not a number,
  // or for a table that is empty or falls.
  void limit_values(const double* values, const PacingTable& table);
  void limit_percentiles(const double* values, const PacingTable& table, std::uint64_t seed);

  AdmissionOrder order() const;  // without metrics, all samples at the first step

 private:
  void delay(std::size_t sample, std::size_t step, std::size_t of_steps);

  std::vector<std::uint32_t> steps_;  // by sample; kNever if no step admits it
  std::size_t last_ = 0;              // steps that some table has, less one
};

}  // namespace merak::data
