#include "resharding/run_list.h"

#include <algorithm>

namespace merak {

void append(RunList& list, Run run) {
  if (run.begin >= run.end) return;
  if (!list.empty() && list.back().end == run.begin)
    list.back().end = run.end;
  else
    list.push_back(run);
}

std::size_t count(const RunList& list) {
  std::size_t count = 0;
  for (Run run : list) count += run.count();
  return count;
}

RunList intersection(const RunList& a, const RunList& b) {
  RunList both;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    append(both, {std::max(a[i].begin, b[j].begin), std::min(a[i].end, b[j].end)});
    if (a[i].end < b[j].end)
      ++i;
    else
      ++j;
  }
  return both;
}

std::size_t position_of(const RunList& list, std::size_t index) {
  std::size_t before = 0;
  for (Run run : list) {
    if (index < run.end) return before + index - run.begin;
    before += run.count();
  }
  return before;
}

RunList at_positions(const RunList& list, const RunList& positions) {
  RunList found;
  std::size_t before = 0;  // the position of the run's first index
  auto run = list.begin();
  for (Run wanted : positions)
    while (wanted.begin < wanted.end) {
      while (before + run->count() <= wanted.begin) before += (run++)->count();
      const std::size_t end = std::min(wanted.end, before + run->count());
      append(found, {run->begin + wanted.begin - before, run->begin + end - before});
      wanted.begin = end;
    }
  return found;
}

RunList positions_of(const RunList& part, const RunList& list) {
  RunList found;
  std::size_t before = 0;
  auto run = list.begin();
  for (Run wanted : part) {
    while (run->end <= wanted.begin) before += (run++)->count();
    const std::size_t begin = before + wanted.begin - run->begin;
    append(found, {begin, begin + wanted.count()});
  }
  return found;
}

}  // namespace merak
