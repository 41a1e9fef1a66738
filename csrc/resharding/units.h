#pragma once
// What has to go where: a *unit* is what one tile of the source has in common with one tile of the target. All who hold
// the source tile hold the unit, all who want the target tile want it, so it moves as one. The units of a move are
// disjoint, and make up the tensor.
//
// Along one dimension, parts of the source and parts of the target that overlap are found by walking over the runs of
// both in rising order. A unit is one such pair for each dimension, so there is no more work than there are units.
//
// Partial targets. A value becomes a partial as DTensor does it where it can: under sum, the ranks of coordinate 0 get
// the value and the others zeros, so nothing is rounded; under average, minimum and maximum all ranks get it. Under
// product it cannot be done (check_move refuses it).

#include <cstdint>

#include "resharding/tiling.h"

namespace merak {

struct Unit {
  std::uint32_t source_tile = 0, target_tile = 0;
  std::size_t elements = 0;  // never none

  bool operator==(const Unit&) const = default;
};

struct MoveUnits {
  Tiling source, target;
  std::vector<std::vector<int>> receivers;  // of each target tile: the ranks that get values
  std::vector<int> zeroed;                  // ranks of the target that get zeros instead; rising
  Reduction reduction = Reduction::kNone;   // what makes one value of the contributors' values; kSum for averages too,
  std::size_t divisor = 1;                  // and then the sum is divided by this
  std::vector<Unit> units;

  const Contributors& contributors_of(const Unit& unit) const { return source.contributors[unit.source_tile]; }
  const std::vector<int>& receivers_of(const Unit& unit) const { return receivers[unit.target_tile]; }
  Region region(const Unit& unit) const;
};

// Needs a move that has been checked.
MoveUnits units_of(const Move& move);

}  // namespace merak
