#pragma once
// What DTensor's placements mean, element by element and the slow way; and random layouts.

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "resharding/buckets.h"
#include "resharding/layout.h"
#include "resharding/network.h"

namespace merak {

using Indices = std::vector<std::size_t>;

// torch.chunk, as a list of lists; empty ones fill up what is missing.
inline std::vector<Indices> chunked(const Indices& all, std::size_t count) {
  const std::size_t most = std::max<std::size_t>(1, (all.size() + count - 1) / count);
  std::vector<Indices> chunks(count);
  for (std::size_t i = 0; i < all.size(); ++i) chunks[i / most].push_back(all[i]);
  return chunks;
}

inline Indices shard_of(const Indices& all, const Placement& placement, std::size_t size, std::size_t coordinate) {
  Indices mine;
  for (const Indices& piece : chunked(all, placement.split_factor)) {
    const Indices chunk = chunked(piece, size)[coordinate];
    mine.insert(mine.end(), chunk.begin(), chunk.end());
  }
  return mine;
}

inline std::vector<std::size_t> coordinate_of(const Layout& layout, std::size_t place) {
  std::vector<std::size_t> coordinate(layout.mesh_shape.size());
  for (std::size_t k = layout.mesh_shape.size(); k-- > 0;) {
    coordinate[k] = place % layout.mesh_shape[k];
    place /= layout.mesh_shape[k];
  }
  return coordinate;
}

// Which of the values that are still to be reduced a place of the mesh has: row-major over the coordinates of partial
// dimensions.
inline std::size_t contributor_of(const Layout& layout, std::size_t place) {
  const std::vector<std::size_t> coordinate = coordinate_of(layout, place);
  std::size_t contributor = 0;
  for (std::size_t k = 0; k < coordinate.size(); ++k)
    if (layout.placements[k].kind == PlacementKind::kPartial)
      contributor = contributor * static_cast<std::size_t>(layout.mesh_shape[k]) + coordinate[k];
  return contributor;
}

// Whether a place gets zeros, since another holds the value for a sum.
inline bool gets_zeros(const Layout& layout, std::size_t place) {
  const std::vector<std::size_t> coordinate = coordinate_of(layout, place);
  for (std::size_t k = 0; k < coordinate.size(); ++k)
    if (layout.placements[k] == partial(Reduction::kSum) && coordinate[k] > 0) return true;
  return false;
}

// By dimension: the indices that the rank at a place of the mesh has, in the order of its local tensor.
inline std::vector<Indices> held_by_place(const Layout& layout, const std::vector<std::size_t>& shape,
                                          std::size_t place) {
  std::vector<Indices> held;
  for (std::size_t extent : shape) {
    Indices& all = held.emplace_back(extent);
    for (std::size_t i = 0; i < extent; ++i) all[i] = i;
  }
  const std::vector<std::size_t> coordinate = coordinate_of(layout, place);
  for (std::size_t k = 0; k < layout.placements.size(); ++k) {
    const Placement& placement = layout.placements[k];
    if (placement.is_shard())
      held[placement.dim] = shard_of(held[placement.dim], placement, layout.mesh_shape[k], coordinate[k]);
  }
  return held;
}

inline Indices indices_of(const RunList& list) {
  Indices indices;
  for (Run run : list)
    for (std::size_t i = run.begin; i < run.end; ++i) indices.push_back(i);
  return indices;
}

// Row-major numbers, in the whole tensor, of a product of indices.
inline Indices elements_of(const std::vector<Indices>& dims, const std::vector<std::size_t>& shape) {
  Indices elements = {0};
  for (std::size_t dim = 0; dim < dims.size(); ++dim) {
    Indices finer;
    for (std::size_t element : elements)
      for (std::size_t i : dims[dim]) finer.push_back(element * shape[dim] + i);
    elements = std::move(finer);
  }
  return elements;
}

inline Indices elements_of(const Region& region, const std::vector<std::size_t>& shape) {
  std::vector<Indices> dims;
  for (const RunList& list : region.dims) dims.push_back(indices_of(list));
  return elements_of(dims, shape);
}

class RandomMoves {
 public:
  RandomMoves(unsigned seed, int ranks) : random_(seed), ranks_(ranks) {}

  std::size_t draw(std::size_t least, std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(least, most)(random_);
  }

  // Tensors of 0 to 3 dimensions; meshes of 1 to 3, over any ranks in any order.
  Move move() {
    Move move;
    const std::size_t dims = draw(0, 3);
    for (std::size_t dim = 0; dim < dims; ++dim) move.shape.push_back(draw(0, 9) == 0 ? 0 : draw(1, 13));
    constexpr DType kDTypes[] = {DType::kInt8, DType::kBFloat16, DType::kFloat32, DType::kComplex128};
    move.dtype = kDTypes[draw(0, 3)];
    move.source = layout(dims, true);
    const bool same = draw(0, 7) == 0;
    move.target = same ? move.source : layout(dims, false);
    if (partials(move.source) && partials(move.target)) drop_partials(move.target);
    return move;
  }

  Network network() {
    std::vector<int> host_of;
    const std::size_t hosts = draw(1, 5);
    for (int rank = 0; rank < ranks_; ++rank) host_of.push_back(static_cast<int>(draw(0, hosts - 1)));
    Network network = network_of(host_of);
    if (draw(0, 1) == 0)
      for (HostLinks& host : network.hosts) {
        host.out_bytes_per_s *= static_cast<double>(draw(1, 8)) / 4;
        host.in_bytes_per_s *= static_cast<double>(draw(1, 8)) / 4;
      }
    return network;
  }

 private:
  Layout layout(std::size_t dims, bool is_source) {
    Layout layout;
    std::size_t size = 1;
    const std::size_t mesh_dims = draw(1, 3);
    for (std::size_t k = 0; k < mesh_dims; ++k) {
      layout.mesh_shape.push_back(static_cast<int>(draw(1, std::min<std::size_t>(4, ranks_ / size))));
      size *= layout.mesh_shape.back();
    }
    for (int rank = 0; rank < ranks_; ++rank) layout.ranks.push_back(rank);
    std::shuffle(layout.ranks.begin(), layout.ranks.end(), random_);
    layout.ranks.resize(size);
    constexpr Reduction kKinds[] = {Reduction::kSum, Reduction::kAverage, Reduction::kMin, Reduction::kMax,
                                    Reduction::kProduct};
    const Reduction kind = kKinds[draw(0, is_source ? 4 : 3)];
    for (std::size_t k = 0; k < mesh_dims; ++k) layout.placements.push_back(placement(dims, kind));
    return layout;
  }

  Placement placement(std::size_t dims, Reduction kind) {
    const std::size_t drawn = draw(0, 9);
    if (drawn == 0) return partial(kind == Reduction::kAverage && draw(0, 1) == 0 ? Reduction::kSum : kind);
    if (drawn <= 3 || dims == 0) return replicate();
    const int dim = static_cast<int>(draw(0, dims - 1));
    return drawn <= 5 ? strided_shard(dim, draw(1, 4)) : shard(dim);
  }

  static bool partials(const Layout& layout) {
    return std::any_of(layout.placements.begin(), layout.placements.end(),
                       [](const Placement& p) { return p.kind == PlacementKind::kPartial; });
  }

  static void drop_partials(Layout& layout) {
    for (Placement& placement : layout.placements)
      if (placement.kind == PlacementKind::kPartial) placement = replicate();
  }

  std::mt19937 random_;
  const int ranks_;
};

}  // namespace merak
