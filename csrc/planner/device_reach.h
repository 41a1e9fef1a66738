#pragma once
// How many devices can be left where a stage begins, for every point and number of stages to come.
//
// With `left` devices left at a point, a stage of n devices that may begin there can end at the points up to its
// furthest, and leaves left - n there and one stage fewer to come. So all that is reached from the front follows stage
// by stage, for several numbers of stages at once: they are told apart by how many are to come. Going through the
// points in order, the *cover* of a number of devices is the furthest end of the stages so far that leave so many: a
// point is reached with it if it is not beyond. Whether the end is reached from a point follows in the same way from
// the back, from the *nearest* later point with so many left from which it is.
//
// A stage counts as one to come where it begins, so that 0 are to come at the end. With C points and D devices either
// way takes C D steps for each stage to come and shape.

#include <functional>
#include <vector>

#include "planner/shaped_options.h"

namespace merak::planner {

// The least and the most devices left; the least is above the most where nothing is reached.
struct LeftRange {
  int least = 0, most = -1;
};

class DeviceReach {
 public:
  explicit DeviceReach(const ShapedOptions& options);

  // From the front, for arrangements with these numbers of stages: `stages` says of each number whether it is one, up
  // to that of options.max_stages(). furthest(shape, behind, from): how far a stage goes.
  void find(const std::vector<bool>& stages, const std::function<int(int, int, int)>& furthest);
  LeftRange left(int to_come, int point) const { return left_[to_come * (options_.segments() + 1) + point]; }

 private:
  void pass(int to_come, const std::function<int(int, int, int)>& furthest);

  const ShapedOptions& options_;
  std::vector<LeftRange> left_;     // by stages to come, by point
  std::vector<char> here_, after_;  // by point, by devices left: whether they can be, with so many to come and one less
  std::vector<int> cover_;          // by devices left
};

// By number of stages, from 0 to options.max_stages(): whether any arrangement fits into memory.
std::vector<bool> stages_that_fit(const ShapedOptions& options);

}  // namespace merak::planner
