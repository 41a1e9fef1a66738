#pragma once
// The least sum of passes with no period above a limit, by dynamic programming from the back.
//
// With `to_come` stages from a point on, and exactly `left` devices for them, the least sum is the least, over the
// shapes and ends of the first of them, of its pass plus the least sum of one stage fewer from that end on with the
// devices that it leaves. Counted from the back, the micro-batches in flight at a stage do not depend on how many
// stages are in front of it, so one recursion serves all numbers of stages.
//
// For one shape and one end, all numbers of devices left are done together: a row of sums is shifted by the shape's
// devices, its pass is added, and the least is taken. Only what device_reach.h reaches within the limit is gone
// through. What was chosen is not stored, but found again along the way from the front.

#include <vector>

#include "planner/device_reach.h"
#include "planner/shaped_options.h"

namespace merak::planner {

// Stages from first to last, as searched for.
struct Arrangement {
  std::vector<int> points = {0};  // where they begin, and the end
  std::vector<int> shapes = {};
  double bottleneck_s = 0;
};

class LeastPasses {
 public:
  explicit LeastPasses(ShapedOptions& options);

  // For these numbers of stages, as in DeviceReach::find(). The limit counts for what is asked below.
  void find(double period_s, const std::vector<bool>& stages);
  // Infinity if nothing stays within the limit.
  double passes_s(int stages) const;
  Arrangement arrangement(int stages);

 private:
  struct Run {
    int first = 0, end = 0;
  };

  double* sums(int to_come, int point) { return &sums_[row_at(to_come, point) * numbers_]; }
  std::size_t row_at(int to_come, int point) const {
    return static_cast<std::size_t>(to_come) * (options_.segments() + 1) + point;
  }
  void find_here(int to_come, int point);
  void find_with(int shape, int to_come, int point);

  ShapedOptions& options_;
  DeviceReach reach_;
  int numbers_;                         // of devices, 0 included
  std::vector<std::vector<Run>> runs_;  // by shape: numbers of devices left with which it may begin
  std::vector<double> sums_;            // by stages to come, by point, by devices left
  std::vector<LeftRange> known_;        // by stages to come, by point: which of them are finite at most
};

}  // namespace merak::planner
