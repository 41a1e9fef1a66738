#include "resharding/layout.h"

#include <algorithm>
#include <set>
#include <stdexcept>

namespace merak {
namespace {

constexpr std::size_t kTooManyBytes = std::size_t{1} << 62;

class Checker {
 public:
  Checker(const Layout& layout, std::string where) : layout_(layout), where_(std::move(where)) {}

  void mesh(int group_size) const {
    std::size_t size = 1;
    for (int extent : layout_.mesh_shape) {
      if (extent < 1) refuse("a mesh dimension of size " + std::to_string(extent));
      size *= static_cast<std::size_t>(extent);
      if (size > layout_.ranks.size()) break;
    }
    if (size != layout_.ranks.size())
      refuse("the mesh's shape does not hold its " + std::to_string(layout_.ranks.size()) + " ranks");
    std::set<int> seen;
    for (int rank : layout_.ranks) {
      if (rank < 0 || rank >= group_size)
        refuse("rank " + std::to_string(rank) + " is not in the group, which has ranks 0 to " +
               std::to_string(group_size - 1));
      if (!seen.insert(rank).second) refuse("the mesh names rank " + std::to_string(rank) + " twice");
    }
  }

  void placements(std::size_t dims) const {
    if (layout_.placements.size() != layout_.mesh_shape.size())
      refuse(std::to_string(layout_.placements.size()) + " placements for a mesh of " +
             std::to_string(layout_.mesh_shape.size()) + " dimensions: give one for each");
    for (const Placement& placement : layout_.placements) {
      if (placement.is_shard()) check_shard(placement, dims);
      if (placement.kind == PlacementKind::kPartial) check_reduction(placement.reduction);
    }
    if (kinds().size() > 1) refuse("two kinds of partial in one layout; only sum and avg go together");
  }

  // Of the reductions, average counted as sum.
  std::set<Reduction> kinds() const {
    std::set<Reduction> kinds;
    for (const Placement& placement : layout_.placements)
      if (placement.kind == PlacementKind::kPartial)
        kinds.insert(placement.reduction == Reduction::kAverage ? Reduction::kSum : placement.reduction);
    return kinds;
  }

  [[noreturn]] void refuse(const std::string& why) const { throw std::invalid_argument(where_ + ": " + why); }

 private:
  void check_shard(const Placement& placement, std::size_t dims) const {
    if (placement.dim < 0 || static_cast<std::size_t>(placement.dim) >= dims)
      refuse("shard of dimension " + std::to_string(placement.dim) + " of a tensor of " + std::to_string(dims) +
             " dimensions");
    if (placement.split_factor < 1 || placement.split_factor > kMostSplitFactor)
      refuse("split factor " + std::to_string(placement.split_factor) + ": expected 1 to " +
             std::to_string(kMostSplitFactor));
  }

  void check_reduction(Reduction reduction) const {
    constexpr Reduction kKnown[] = {Reduction::kSum, Reduction::kAverage, Reduction::kMin, Reduction::kMax,
                                    Reduction::kProduct};
    if (std::find(std::begin(kKnown), std::end(kKnown), reduction) == std::end(kKnown))
      refuse(std::string("partial(") + name(reduction) + "): expected sum, avg, min, max or product");
  }

  const Layout& layout_;
  const std::string where_;
};

void check_size(const Move& move, const std::string& name) {
  if (std::find(move.shape.begin(), move.shape.end(), std::size_t{0}) != move.shape.end()) return;
  std::size_t bytes = element_bytes(move.dtype);
  for (std::size_t extent : move.shape) {
    if (extent > (kTooManyBytes - 1) / bytes) throw std::invalid_argument(name + ": 2^62 bytes or more");
    bytes *= extent;
  }
}

}  // namespace

Placement replicate() { return {}; }
Placement shard(int dim) { return {.kind = PlacementKind::kShard, .dim = dim}; }
Placement strided_shard(int dim, std::size_t split_factor) {
  return {.kind = PlacementKind::kStridedShard, .dim = dim, .split_factor = split_factor};
}
Placement partial(Reduction reduction) { return {.kind = PlacementKind::kPartial, .reduction = reduction}; }

void check_move(const Move& move, int group_size, const std::string& name) {
  const Checker source(move.source, name + ", source"), target(move.target, name + ", target");
  for (const Checker* side : {&source, &target}) {
    side->mesh(group_size);
    side->placements(move.shape.size());
  }
  const std::set<Reduction> from = source.kinds(), to = target.kinds();
  if (to.count(Reduction::kProduct) > 0)
    target.refuse("a value has no factors for partial(product): ask for replicate instead");
  if (!from.empty() && !to.empty() && from != to)
    target.refuse("a partial of one kind cannot become one of another: ask for replicate first");
  check_size(move, name);
}

}  // namespace merak
