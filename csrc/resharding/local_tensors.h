#pragma once
// The tensors of a batch that one rank has, as the input and the output of its program: one behind the other in the
// order of the batch, each dense and row-major, without gaps. A rank outside a tensor's mesh has no bytes of it. (On a
// device, and wherever tensors lie apart, they are the pieces of one Buffer.)

#include <cstddef>
#include <vector>

#include "resharding/buckets.h"

namespace merak {

struct LocalTensors {
  std::vector<Region> regions;       // by tensor: what the rank holds of it; only of tensors of which it has bytes
  std::vector<std::size_t> offsets;  // where each begins, in bytes; and at the end, the bytes of all

  std::size_t bytes() const { return offsets.back(); }
  std::size_t bytes(std::size_t tensor) const { return offsets[tensor + 1] - offsets[tensor]; }
};

LocalTensors source_tensors(const MoveBatch& batch, int rank);
LocalTensors target_tensors(const MoveBatch& batch, int rank);

// Tensors of which the rank gets zeros (units.h). No program writes them: whoever owns the output fills them.
std::vector<std::size_t> zeroed_tensors(const MoveBatch& batch, int rank);

}  // namespace merak
