#pragma once
// What each rank of a layout holds. A layout cuts every dimension of the tensor into *parts*, run lists that are
// disjoint and make up the whole dimension together; a dimension that no placement shards is one part. A *tile* is a
// product of parts, one of each dimension, so tiles are disjoint too, and make up the tensor. Every rank holds one
// tile.
//
// Ranks that hold the same tile are *replicas* of each other if they differ only in coordinates of replicated mesh
// dimensions. Where a mesh dimension is partial they hold different values, to be reduced: for each coordinate of the
// partial dimensions a tile has a *contributor*, a list of ranks any of which can speak for it. A tile of a layout
// without partial dimensions has one contributor.
//
// Source: left to right, as DTensor cuts; a chunk has ceil(n / size) indices of the n that are left, and the last ones
// have what remains.

#include <cstddef>
#include <vector>

#include "resharding/layout.h"
#include "resharding/run_list.h"

namespace merak {

// A product of run lists, one of each dimension; of no dimensions: the one element of a scalar.
struct Region {
  std::vector<RunList> dims;

  std::size_t elements() const;
  bool operator==(const Region&) const = default;
};

Region intersection(const Region& a, const Region& b);

// Where the elements of `part` stand in the tensor of a rank that holds `whole`.
Region positions_of(const Region& part, const Region& whole);

using Contributors = std::vector<std::vector<int>>;  // ranks, in order of the mesh

struct Tiling {
  std::vector<std::vector<RunList>> parts;  // [dimension][part]
  std::vector<Contributors> contributors;   // of each tile; tiles are numbered row-major over the parts

  std::size_t tiles() const { return contributors.size(); }
  std::size_t part_of(std::size_t tile, std::size_t dim) const;  // which part of a dimension a tile is made of
  Region region(std::size_t tile) const;
};

// Needs a layout that has been checked.
Tiling tiling(const Layout& layout, const std::vector<std::size_t>& shape);

// The tile of a rank in such a tiling, or tiles() if it is not in the layout's mesh.
std::size_t tile_of(const Tiling& tiling, int rank);

}  // namespace merak
