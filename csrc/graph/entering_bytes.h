#pragma once
// How many bytes an interval of nodes needs from outside, for every interval between two allowed boundaries.
//
// A *thing*, a value or a parameter, has an origin, which is a node or -1 if it lies before all of them, and nodes that
// use it. The interval [i, j) needs it from outside if its origin lies before i and a use within the interval. It may
// have several uses there, and counts once: at the use whose previous appearance (the origin or another use) lies
// before i. So a thing with k uses is k *links* (from, to), and the interval needs those with from < i <= to < j.
//
// With crossing(i, j) the sum of the links with from < i and to >= j, that is crossing(i, i) - crossing(i, j). A table
// of it has one entry for each pair of boundaries, so an answer takes two reads. C boundaries take 8 C^2 bytes.

#include <cstddef>
#include <vector>

namespace merak {

class EnteringBytes {
 public:
  // `boundaries`: nodes in ascending order, from 0 to the number of nodes.
  explicit EnteringBytes(const std::vector<int>& boundaries);

  // Uses ascend. To be called before sum_up().
  void add(int origin, const std::vector<int>& uses, double bytes);
  void sum_up();

  // Between boundaries number a and b, a <= b.
  double between(int a, int b) const { return crossing(a, a) - crossing(a, b); }

 private:
  double crossing(int a, int b) const { return crossing_[a * points_ + b]; }

  const std::vector<int>& boundaries_;
  std::size_t points_;
  std::vector<double> crossing_;  // by pair of boundaries
};

}  // namespace merak
