#pragma once
// Which limits on the period have to be tried, so that for each number of stages the best step is found.
//
// For a number of stages let G(P) be the least sum of passes where no period is above P. It falls as P grows, and the
// best step is the least G(P) + w P, with the *weight* w = m - 1. Let T be the best step known, and e the tolerance.
// What one trial says of longest periods b:
//
//   G(P), and P' <= P, the longest period of what was found
//     closes b from P' to P, where T is no longer than G(P) + w P', and
//     b from (T (1 - e) - G(P)) / w to P, where no step is shorter than T (1 - e);
//   nothing stays within P
//     closes b up to P.
//
// A lower bound on G closes what is far above, in the same way, and a lower bound on b what is below. The *open* end of
// a number of stages is the supremum of what is not closed. First, limits are tried that ascend by kGrowth, until one
// is above all open ends: with a low limit few stages are possible, so that this costs little and gives a good T. Then
// the highest open end is tried, for all numbers of stages with an open end nearby, until none is left. As T is no
// longer than G(P) + w P', a trial closes at least e T / w.
//
// What is closed also bounds the best step from below: between neighbouring trials Q < P it is at least G(P) + w Q; and
// in the end no step is shorter than T (1 - e), or than the longest step that is of interest.

#include <limits>
#include <optional>
#include <vector>

namespace merak::planner {

struct PeriodBounds {
  double weight = 0;
  double least_passes_s = 0;                     // of any arrangement
  double least_period_s = 0, most_period_s = 0;  // of its longest period
};

class PeriodLimits {
 public:
  struct Trial {
    double period_s = 0;
    std::vector<bool> stages = {};  // by number of stages, from 0: those to try it for
  };

  // `stages`: by number of stages, from 0, whether they are looked for. `tolerance`, `within` and `most_s` as in
  // SearchModel.
  PeriodLimits(const std::vector<bool>& stages, const PeriodBounds& bounds, double tolerance, double within,
               double most_s);

  // Nothing if all is closed.
  std::optional<Trial> next();
  // What was found; infinity where nothing stays within the limit. Whether it is the best for its number of stages.
  bool add(int stages, double period_s, double passes_s, double bottleneck_s);

  double best_s(int stages) const { return best_s_[stages]; }
  double best_s() const { return best_of_all_s_; }
  // Lower bounds, once all is closed.
  double bound_s(int stages) const;
  double bound_s() const;

 private:
  struct Known {
    double period_s, passes_s, bottleneck_s;
  };

  // No step that is longer is of interest.
  double target_s(int stages) const;
  double open_end(int stages) const;
  double end_of(double target_s, double passes_s) const;

  std::vector<bool> stages_;
  PeriodBounds bounds_;
  double tolerance_, within_, most_s_;
  std::vector<std::vector<Known>> known_;  // by number of stages, limits descending
  std::vector<double> best_s_;             // by number of stages
  double best_of_all_s_ = std::numeric_limits<double>::infinity();
  double ascending_s_;  // the next of the limits that ascend; infinity when that is over
};

}  // namespace merak::planner
