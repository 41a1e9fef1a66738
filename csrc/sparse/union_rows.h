#pragma once
// The rows that any rank contributes, and who contributes each: what all ranks know once they have exchanged their
// bitmaps, and what all plans are made from.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sparse/bitmap.h"

namespace merak {

struct UnionRows {
  int size = 0;                             // of the group
  std::vector<std::uint32_t> ids;           // the rows, ascending; row u of the union is row ids[u] of the table
  std::vector<std::uint32_t> first;         // row u is contributed by
  std::vector<std::uint32_t> contributors;  // contributors[first[u]], ..., ascending ranks
  std::vector<std::uint32_t> counts;        // by rank: how many rows it contributes

  std::size_t rows() const { return ids.size(); }
  std::span<const std::uint32_t> of(std::size_t u) const {
    return {contributors.data() + first[u], contributors.data() + first[u + 1]};
  }
};

// `present`: the bitmap of every rank, all of the same length.
UnionRows unite(const std::vector<Bitmap>& present);

}  // namespace merak
