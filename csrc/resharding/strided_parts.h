#pragma once
// Parts of regions as strided copies. Two ranks, or a rank and a payload, hold the same unit in dense row-major tensors
// of different regions; what takes elements begin to before end of the unit, in the row-major order of the unit, from
// one tensor to the other is a few strided copies:
//
//   - such a range is a box of whole rows of some dimension, and what is left before and behind, in which one
//     coordinate is fixed: at most two boxes less one for each dimension;
//   - along a dimension of such a box, the unit's runs are contiguous on both sides. Runs of equal length at equal
//     distances, as a strided shard makes them, are one more dimension of the copy; others are copies of their own.

#include <cstddef>
#include <vector>

#include "resharding/tiling.h"
#include "transport/strided_copy.h"

namespace merak {

struct StridedPart {
  std::size_t at = 0, from = 0;  // bytes from where either tensor begins
  StridedCopy copy;

  bool operator==(const StridedPart&) const = default;
};

// `unit` lies within both regions.
std::vector<StridedPart> strided_parts(const Region& unit, std::size_t begin, std::size_t end, const Region& at,
                                       const Region& from, std::size_t element_bytes);

}  // namespace merak
