#include "planner/device_reach.h"

#include <algorithm>
#include <iterator>

// -O2 alone vectorises only loops whose length it knows.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

namespace merak::planner {

DeviceReach::DeviceReach(const ShapedOptions& options)
    : options_(options),
      left_((options.max_stages() + 1) * (options.segments() + 1)),
      here_((options.segments() + 1) * (options.devices() + 1)),
      after_(here_.size()),
      cover_(options.devices() + 1) {}

void DeviceReach::find(const std::vector<bool>& stages, const std::function<int(int, int, int)>& furthest) {
  std::fill(left_.begin(), left_.end(), LeftRange{});
  std::fill(here_.begin(), here_.end(), 0);
  for (int to_come = options_.max_stages(); to_come > 0; --to_come) {
    if (stages[to_come]) here_[options_.devices()] = 1;
    pass(to_come, furthest);
    std::swap(here_, after_);
  }
}

void DeviceReach::pass(int to_come, const std::function<int(int, int, int)>& furthest) {
  const int numbers = options_.devices() + 1;
  std::fill(cover_.begin(), cover_.end(), -1);
  LeftRange* ranges = &left_[to_come * (options_.segments() + 1)];
  for (int point = 0; point <= options_.segments(); ++point) {
    char* after = &after_[point * numbers];
    for (int left = 0; left < numbers; ++left) after[left] = cover_[left] >= point;
    if (point == options_.segments()) break;
    const char* here = &here_[point * numbers];
    const char* const first = std::find(here, here + numbers, 1);
    if (first == here + numbers) continue;
    const auto last = std::find(std::make_reverse_iterator(here + numbers), std::make_reverse_iterator(here), 1);
    LeftRange& range = ranges[point];
    range = {static_cast<int>(first - here), static_cast<int>(last.base() - here) - 1};
    for (int shape = 0; shape < options_.shapes(); ++shape) {
      const int width = options_.width(shape);
      const int end = options_.may_have(shape, to_come - 1) ? furthest(shape, to_come - 1, point) : point;
      if (end == point) continue;
      const std::vector<char>& may_begin = options_.may_begin(shape);
      for (int left = std::max(range.least, width); left <= range.most; ++left)
        cover_[left - width] = std::max(cover_[left - width], (here[left] & may_begin[left]) != 0 ? end : -1);
    }
  }
}

std::vector<bool> stages_that_fit(const ShapedOptions& options) {
  const int numbers = options.devices() + 1, end = options.segments();
  // By point, by devices left: the nearest point from there on, with as many left, from which the end is reached.
  std::vector<int> nearest((end + 2) * numbers, end + 1), next;
  std::vector<bool> fit(options.max_stages() + 1, false);
  for (int point = 0; point <= end; ++point) nearest[point * numbers] = end;
  for (int to_come = 1; to_come <= options.max_stages(); ++to_come) {
    next.assign(nearest.size(), end + 1);
    for (int point = end - 1; point >= 0; --point) {
      std::copy_n(&next[(point + 1) * numbers], numbers, &next[point * numbers]);
      for (int shape = 0; shape < options.shapes(); ++shape) {
        if (!options.may_have(shape, to_come - 1)) continue;
        const int width = options.width(shape), furthest = options.furthest(shape, to_come - 1, point);
        const std::vector<char>& may_begin = options.may_begin(shape);
        for (int left = width; left < numbers; ++left)
          if (may_begin[left] && nearest[(point + 1) * numbers + left - width] <= furthest)
            next[point * numbers + left] = point;
      }
    }
    std::swap(nearest, next);
    fit[to_come] = options.may_number(to_come) && nearest[numbers - 1] == 0;
  }
  return fit;
}

}  // namespace merak::planner
