#include "resharding/local_tensors.h"

#include <algorithm>

namespace merak {
namespace {

LocalTensors local_tensors(const MoveBatch& batch, int rank, Tiling MoveUnits::*side) {
  LocalTensors local{.regions = {}, .offsets = {0}};
  for (std::size_t tensor = 0; tensor < batch.moves.size(); ++tensor) {
    const Tiling& tiling = batch.units_of_tensor(tensor).*side;
    const std::size_t tile = tile_of(tiling, rank);
    const bool has = tile < tiling.tiles();
    local.regions.push_back(has ? tiling.region(tile) : Region());
    const std::size_t elements = has ? local.regions.back().elements() : 0;
    local.offsets.push_back(local.bytes() + elements * element_bytes(batch.moves[tensor].dtype));
  }
  return local;
}

}  // namespace

LocalTensors source_tensors(const MoveBatch& batch, int rank) { return local_tensors(batch, rank, &MoveUnits::source); }

LocalTensors target_tensors(const MoveBatch& batch, int rank) { return local_tensors(batch, rank, &MoveUnits::target); }

std::vector<std::size_t> zeroed_tensors(const MoveBatch& batch, int rank) {
  std::vector<std::size_t> tensors;
  for (std::size_t tensor = 0; tensor < batch.moves.size(); ++tensor) {
    const std::vector<int>& zeroed = batch.units_of_tensor(tensor).zeroed;
    if (std::binary_search(zeroed.begin(), zeroed.end(), rank)) tensors.push_back(tensor);
  }
  return tensors;
}

}  // namespace merak
