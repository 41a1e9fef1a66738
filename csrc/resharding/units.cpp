#include "resharding/units.h"

#include <algorithm>

namespace merak {
namespace {

struct Overlap {  // of a part of the source and a part of the target, along one dimension
  std::size_t source = 0, target = 0;
  std::size_t count = 0;
};

struct OwnedRun {
  Run run;
  std::size_t part = 0;
};

std::vector<OwnedRun> in_rising_order(const std::vector<RunList>& parts) {
  std::vector<OwnedRun> runs;
  for (std::size_t part = 0; part < parts.size(); ++part)
    for (Run run : parts[part]) runs.push_back({run, part});
  std::sort(runs.begin(), runs.end(), [](const OwnedRun& a, const OwnedRun& b) { return a.run < b.run; });
  return runs;
}

// Each pair once, with all that it has in common.
std::vector<Overlap> joined(std::vector<Overlap> overlaps) {
  std::sort(overlaps.begin(), overlaps.end(), [](const Overlap& a, const Overlap& b) {
    return a.source != b.source ? a.source < b.source : a.target < b.target;
  });
  std::vector<Overlap> once;
  for (const Overlap& overlap : overlaps)
    if (!once.empty() && once.back().source == overlap.source && once.back().target == overlap.target)
      once.back().count += overlap.count;
    else
      once.push_back(overlap);
  return once;
}

// Both sides cut the same dimension, so their runs cover the same indices.
std::vector<Overlap> overlaps_of(const std::vector<RunList>& source, const std::vector<RunList>& target) {
  const std::vector<OwnedRun> from = in_rising_order(source), to = in_rising_order(target);
  std::vector<Overlap> overlaps;
  for (std::size_t i = 0, j = 0; i < from.size() && j < to.size();) {
    const std::size_t begin = std::max(from[i].run.begin, to[j].run.begin);
    const std::size_t end = std::min(from[i].run.end, to[j].run.end);
    overlaps.push_back({from[i].part, to[j].part, end - begin});
    i += from[i].run.end == end;
    j += to[j].run.end == end;
  }
  return joined(std::move(overlaps));
}

std::vector<Unit> products_of_overlaps(const Tiling& source, const Tiling& target) {
  std::vector<Unit> units = {{0, 0, 1}};
  for (std::size_t dim = 0; dim < source.parts.size(); ++dim) {
    const auto sources = static_cast<std::uint32_t>(source.parts[dim].size());
    const auto targets = static_cast<std::uint32_t>(target.parts[dim].size());
    std::vector<Unit> finer;
    for (const Overlap& overlap : overlaps_of(source.parts[dim], target.parts[dim]))
      for (const Unit& unit : units)
        finer.push_back({unit.source_tile * sources + static_cast<std::uint32_t>(overlap.source),
                         unit.target_tile * targets + static_cast<std::uint32_t>(overlap.target),
                         unit.elements * overlap.count});
    units = std::move(finer);
  }
  return units;
}

// By contributor of a target tile: whether its ranks get values, not zeros.
std::vector<bool> gets_values(const Layout& target, std::size_t contributors) {
  std::vector<bool> gets(contributors, true);
  std::size_t below = contributors;
  for (std::size_t k = 0; k < target.placements.size(); ++k) {
    if (target.placements[k].kind != PlacementKind::kPartial) continue;
    const std::size_t size = static_cast<std::size_t>(target.mesh_shape[k]);
    below /= size;
    if (target.placements[k].reduction != Reduction::kSum) continue;
    for (std::size_t c = 0; c < contributors; ++c)
      if (c / below % size != 0) gets[c] = false;
  }
  return gets;
}

void set_receivers(MoveUnits& move, const Layout& target) {
  const std::vector<bool> gets = gets_values(target, move.target.contributors.front().size());
  for (const Contributors& contributors : move.target.contributors) {
    std::vector<int>& receivers = move.receivers.emplace_back();
    for (std::size_t c = 0; c < contributors.size(); ++c) {
      std::vector<int>& ranks = gets[c] ? receivers : move.zeroed;
      ranks.insert(ranks.end(), contributors[c].begin(), contributors[c].end());
    }
  }
  std::sort(move.zeroed.begin(), move.zeroed.end());
}

void set_reduction(MoveUnits& move, const Layout& source) {
  if (move.source.contributors.front().size() == 1) return;
  for (std::size_t k = 0; k < source.placements.size(); ++k) {
    const Placement& placement = source.placements[k];
    if (placement.kind != PlacementKind::kPartial) continue;
    const bool average = placement.reduction == Reduction::kAverage;
    if (average) move.divisor *= static_cast<std::size_t>(source.mesh_shape[k]);
    move.reduction = average ? Reduction::kSum : placement.reduction;
  }
}

}  // namespace

Region MoveUnits::region(const Unit& unit) const {
  return intersection(source.region(unit.source_tile), target.region(unit.target_tile));
}

MoveUnits units_of(const Move& move) {
  MoveUnits made;
  made.source = tiling(move.source, move.shape);
  made.target = tiling(move.target, move.shape);
  set_receivers(made, move.target);
  set_reduction(made, move.source);
  made.units = products_of_overlaps(made.source, made.target);
  return made;
}

}  // namespace merak
