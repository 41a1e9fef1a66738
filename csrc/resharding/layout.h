#pragma once
// What a DTensor says about where its elements are: a mesh of ranks, and a placement for each dimension of the mesh.
//
// A mesh is an array of ranks of any number of dimensions, row-major; the ranks may be any of the group, in any order.
// Where a rank stands in it is its *coordinate*. The placement of mesh dimension k says what ranks hold that differ in
// coordinate k alone:
//
//   replicate                 the same elements
//   shard(d)                  tensor dimension d, cut as torch.chunk cuts it, one chunk a coordinate, empty ones last
//   strided_shard(d, factor)  dimension d in `factor` pieces, each of them cut like shard(d): a coordinate has a chunk
//                             of every piece
//   partial(reduction)        values of all these elements that are still to be reduced over coordinate k
//
// Placements apply from left to right: a later one on the same dimension cuts what the earlier ones left.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "transport/signature.h"

namespace merak {

enum class PlacementKind : std::uint8_t { kReplicate, kShard, kStridedShard, kPartial };

struct Placement {
  PlacementKind kind = PlacementKind::kReplicate;
  int dim = 0;                             // of a shard: which dimension of the tensor
  std::size_t split_factor = 1;            // of a strided shard
  Reduction reduction = Reduction::kNone;  // of a partial: sum, average, min, max, product

  bool is_shard() const { return kind == PlacementKind::kShard || kind == PlacementKind::kStridedShard; }
  bool operator==(const Placement&) const = default;
};

Placement replicate();
Placement shard(int dim);
Placement strided_shard(int dim, std::size_t split_factor);
Placement partial(Reduction reduction);

struct Layout {
  std::vector<int> mesh_shape;
  std::vector<int> ranks;  // of the group, row-major
  std::vector<Placement> placements;

  bool operator==(const Layout&) const = default;
};

// A tensor on its way from one layout to another.
struct Move {
  std::vector<std::size_t> shape;
  DType dtype = DType::kFloat32;  // of the elements that cross the wire
  Layout source, target;

  bool operator==(const Move&) const = default;
};

// Throws std::invalid_argument, with a text that begins with `name`, for anything that is no move between two layouts
// of a group of `group_size` ranks:
//
// - a mesh that names a rank twice, or one that is not in the group, or whose shape does not fit its ranks;
// - as many placements as the mesh has dimensions are wanted; dimensions within the tensor (negative ones are resolved
//   before); a split factor of 1 to kMostSplitFactor;
// - reductions other than the five above, or two kinds of them in one layout; but sum and average go together, since
//   they commute. From partial to partial, the kind must stay the same;
// - a target that is partial(product): a value has no factors that every rank could hold;
// - a tensor of 2^62 bytes or more.
void check_move(const Move& move, int group_size, const std::string& name);

inline constexpr std::size_t kMostSplitFactor = 65536;

}  // namespace merak
