#pragma once
// Units that go the same way, of all tensors of a batch together. A *bucket* is all units that the same ranks hold and
// the same ranks want; reduced units share one only if they are of one dtype and reduced alike. Thousands of tensors
// make few buckets, since most of them have the layouts of their neighbours.
//
// The *payload* of a bucket is its units one behind the other, each of them packed row-major. Those of large elements
// come first, so that every multiple of kPayloadUnit bytes lies between two elements: there it may be cut.

#include <cstdint>
#include <vector>

#include "resharding/units.h"

namespace merak {

inline constexpr std::size_t kPayloadUnit = 16;  // the largest element

struct UnitOfBatch {
  std::uint32_t tensor = 0, unit = 0;

  bool operator==(const UnitOfBatch&) const = default;
};

struct Bucket {
  Contributors contributors;
  std::vector<int> receivers;
  Reduction reduction = Reduction::kNone;
  std::size_t divisor = 1;
  std::vector<UnitOfBatch> units;
  std::size_t bytes = 0;

  bool is_reduced() const { return contributors.size() > 1; }
  bool is_held_by(int rank) const;  // needs no message, if nothing is reduced
  bool operator==(const Bucket&) const = default;
};

// The moves of a batch, equal ones cut once.
struct MoveBatch {
  std::vector<Move> moves;          // by tensor
  std::vector<std::uint32_t> kind;  // by tensor: which of `units` is its own
  std::vector<MoveUnits> units;     // of each kind of move

  const MoveUnits& units_of_tensor(std::size_t tensor) const { return units[kind[tensor]]; }
  const Unit& unit(UnitOfBatch at) const { return units_of_tensor(at.tensor).units[at.unit]; }
  std::size_t bytes(UnitOfBatch at) const { return unit(at).elements * element_bytes(moves[at.tensor].dtype); }
};

// Needs moves that have been checked.
MoveBatch cut(std::vector<Move> moves);
std::vector<Bucket> buckets_of(const MoveBatch& batch);

// Elements begin to before end of a unit, row-major in its region.
struct Slice {
  UnitOfBatch unit;
  std::size_t begin = 0, end = 0;

  bool operator==(const Slice&) const = default;
};

// What bytes begin to before end of a payload are; both between elements.
std::vector<Slice> slices_of(const MoveBatch& batch, const Bucket& bucket, std::size_t begin, std::size_t end);

}  // namespace merak
