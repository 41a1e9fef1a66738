#include "resharding/tiling.h"

#include <algorithm>

namespace merak {
namespace {

// Positions, of n, that belong to one of `size` chunks.
Run chunk(std::size_t n, std::size_t size, std::size_t coordinate) {
  const std::size_t most = (n + size - 1) / size;
  return {std::min(most * coordinate, n), std::min(most * (coordinate + 1), n)};
}

RunList chunk_of(const RunList& list, const Placement& placement, std::size_t size, std::size_t coordinate) {
  const std::size_t n = count(list);
  RunList positions;
  for (std::size_t i = 0; i < placement.split_factor; ++i) {
    const Run piece = chunk(n, placement.split_factor, i);
    if (piece.count() == 0) break;
    const Run mine = chunk(piece.count(), size, coordinate);
    append(positions, {piece.begin + mine.begin, piece.begin + mine.end});
  }
  return at_positions(list, positions);
}

std::vector<RunList> parts_of(const Layout& layout, std::size_t dim, std::size_t extent) {
  std::vector<RunList> parts(1);
  append(parts[0], {0, extent});
  for (std::size_t k = 0; k < layout.placements.size(); ++k) {
    const Placement& placement = layout.placements[k];
    if (!placement.is_shard() || static_cast<std::size_t>(placement.dim) != dim) continue;
    const std::size_t size = static_cast<std::size_t>(layout.mesh_shape[k]);
    std::vector<RunList> finer;
    for (const RunList& part : parts)
      for (std::size_t c = 0; c < size; ++c) finer.push_back(chunk_of(part, placement, size, c));
    parts = std::move(finer);
  }
  return parts;
}

// Which tile a rank holds, and for which contributor of it the rank speaks: both row-major numbers of coordinates.
struct Seat {
  std::size_t tile = 0, contributor = 0;
};

class Seating {
 public:
  Seating(const Layout& layout, const Tiling& tiling) : layout_(layout), tiling_(tiling) {}

  Seat of(std::size_t place) const {
    std::vector<std::size_t> part(tiling_.parts.size(), 0);
    Seat seat;
    std::size_t below = layout_.ranks.size();  // ranks that a step of the coordinate skips
    for (std::size_t k = 0; k < layout_.mesh_shape.size(); ++k) {
      const std::size_t size = static_cast<std::size_t>(layout_.mesh_shape[k]);
      below /= size;
      const std::size_t coordinate = place / below % size;
      const Placement& placement = layout_.placements[k];
      if (placement.is_shard()) part[placement.dim] = part[placement.dim] * size + coordinate;
      if (placement.kind == PlacementKind::kPartial) seat.contributor = seat.contributor * size + coordinate;
    }
    for (std::size_t dim = 0; dim < part.size(); ++dim) seat.tile = seat.tile * tiling_.parts[dim].size() + part[dim];
    return seat;
  }

 private:
  const Layout& layout_;
  const Tiling& tiling_;
};

}  // namespace

std::size_t Region::elements() const {
  std::size_t elements = 1;
  for (const RunList& list : dims) elements *= count(list);
  return elements;
}

Region intersection(const Region& a, const Region& b) {
  Region both;
  for (std::size_t dim = 0; dim < a.dims.size(); ++dim) both.dims.push_back(intersection(a.dims[dim], b.dims[dim]));
  return both;
}

Region positions_of(const Region& part, const Region& whole) {
  Region local;
  for (std::size_t dim = 0; dim < part.dims.size(); ++dim)
    local.dims.push_back(positions_of(part.dims[dim], whole.dims[dim]));
  return local;
}

std::size_t Tiling::part_of(std::size_t tile, std::size_t dim) const {
  for (std::size_t later = parts.size() - 1; later > dim; --later) tile /= parts[later].size();
  return tile % parts[dim].size();
}

Region Tiling::region(std::size_t tile) const {
  Region region;
  for (std::size_t dim = 0; dim < parts.size(); ++dim) region.dims.push_back(parts[dim][part_of(tile, dim)]);
  return region;
}

Tiling tiling(const Layout& layout, const std::vector<std::size_t>& shape) {
  Tiling tiling;
  std::size_t tiles = 1, contributors = 1;
  for (std::size_t dim = 0; dim < shape.size(); ++dim) {
    tiling.parts.push_back(parts_of(layout, dim, shape[dim]));
    tiles *= tiling.parts.back().size();
  }
  for (std::size_t k = 0; k < layout.placements.size(); ++k)
    if (layout.placements[k].kind == PlacementKind::kPartial) contributors *= layout.mesh_shape[k];
  tiling.contributors.assign(tiles, Contributors(contributors));
  const Seating seating(layout, tiling);
  for (std::size_t place = 0; place < layout.ranks.size(); ++place) {
    const Seat seat = seating.of(place);
    tiling.contributors[seat.tile][seat.contributor].push_back(layout.ranks[place]);
  }
  return tiling;
}

std::size_t tile_of(const Tiling& tiling, int rank) {
  for (std::size_t tile = 0; tile < tiling.tiles(); ++tile)
    for (const std::vector<int>& replicas : tiling.contributors[tile])
      if (std::find(replicas.begin(), replicas.end(), rank) != replicas.end()) return tile;
  return tiling.tiles();
}

}  // namespace merak
