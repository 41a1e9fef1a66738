#include "graph/entering_bytes.h"

#include <algorithm>

namespace merak {

EnteringBytes::EnteringBytes(const std::vector<int>& boundaries)
    : boundaries_(boundaries), points_(boundaries.size()), crossing_(points_ * points_, 0) {}

void EnteringBytes::add(int origin, const std::vector<int>& uses, double bytes) {
  int from = origin;
  for (int to : uses) {
    const auto after_from = std::upper_bound(boundaries_.begin(), boundaries_.end(), from);
    const auto after_to = std::upper_bound(boundaries_.begin(), boundaries_.end(), to);
    const std::size_t first = after_from - boundaries_.begin(), last = after_to - boundaries_.begin() - 1;
    if (first <= last) crossing_[first * points_ + last] += bytes;
    from = to;
  }
}

void EnteringBytes::sum_up() {
  for (std::size_t a = 0; a < points_; ++a)
    for (std::size_t b = points_; b-- > 0;) {
      double& entry = crossing_[a * points_ + b];
      if (a > 0) entry += crossing_[(a - 1) * points_ + b];
      if (b + 1 < points_) entry += crossing_[a * points_ + b + 1];
      if (a > 0 && b + 1 < points_) entry -= crossing_[(a - 1) * points_ + b + 1];
    }
}

}  // namespace merak
