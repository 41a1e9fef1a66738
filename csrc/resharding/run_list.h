#pragma once
// Which indices of one tensor dimension someone has: a list of *runs* from begin to before end, in rising order, none
// of them empty, none touching the next. A shard has one run, a strided shard has several, an empty shard has none.
//
// What a rank has of a dimension lies densely in its own tensor: the *position* of an index is how many indices of the
// list come before it.

#include <cstddef>
#include <vector>

namespace merak {

struct Run {
  std::size_t begin = 0, end = 0;

  std::size_t count() const { return end - begin; }
  auto operator<=>(const Run&) const = default;
};

using RunList = std::vector<Run>;

// Puts a run behind the others, joined to the last one where they touch; nothing if it is empty.
void append(RunList& list, Run run);

std::size_t count(const RunList& list);
RunList intersection(const RunList& a, const RunList& b);

// The position of an index, which must be in the list.
std::size_t position_of(const RunList& list, std::size_t index);

// The indices that stand at some positions, all below count(list). So at_positions(list, positions_of(part, list)) is
// `part` again.
RunList at_positions(const RunList& list, const RunList& positions);
RunList positions_of(const RunList& part, const RunList& list);

}  // namespace merak
