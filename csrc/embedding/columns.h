#pragma once
// Which columns of a table each rank holds: all rows of them. Every row is then read from all ranks alike, however
// often it is read; had the ranks whole rows, those with the frequent ones would do most of the work.
//
// Columns are cut as torch.chunk cuts: every rank has `most` of them, but for the last ones, which may have fewer, or
// none. So a shard is what DTensor's Shard(1) says it is.

#include <algorithm>
#include <cstddef>

namespace merak {

struct Columns {
  std::size_t all;
  int ranks;

  std::size_t most() const { return (all + static_cast<std::size_t>(ranks) - 1) / static_cast<std::size_t>(ranks); }
  std::size_t begin(int rank) const { return std::min(static_cast<std::size_t>(rank) * most(), all); }
  std::size_t count(int rank) const { return begin(rank + 1) - begin(rank); }
};

}  // namespace merak
