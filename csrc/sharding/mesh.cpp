#include "sharding/mesh.h"

namespace merak::sharding {

int ranks_along(const Mesh& mesh, const Axes& axes) {
  int ranks = 1;
  for (int axis : axes) ranks *= mesh[axis].size;
  return ranks;
}

Axes axes_of(const Pieces& pieces) {
  Axes axes;
  for (const Piece& piece : pieces) axes.insert(axes.end(), piece.axes.begin(), piece.axes.end());
  return axes;
}

namespace {

// Whether the minor of two neighbouring pieces can be taken into the major one.
bool can_merge(const Piece& major, const Piece& minor, const Mesh& mesh) {
  const int ranks = ranks_along(mesh, major.axes);
  return minor.axes.empty() ? major.size % ranks == 0 : !major.axes.empty() && major.size == ranks;
}

// The longest prefix of a piece's axes that divides a factor into single elements, or all of them if it divides evenly.
Axes axes_for_factor(const Axes& axes, std::int64_t size, const Mesh& mesh) {
  Axes prefix;
  for (int axis : axes) {
    if (ranks_along(mesh, prefix) == size) return prefix;
    prefix.push_back(axis);
  }
  return prefix;
}

}  // namespace

Pieces canonical(Pieces pieces, const Mesh& mesh) {
  Pieces result;
  for (Piece& piece : pieces) {
    if (piece.size == 1 && piece.axes.empty()) continue;
    if (!result.empty() && can_merge(result.back(), piece, mesh)) {
      result.back().size *= piece.size;
      result.back().axes.insert(result.back().axes.end(), piece.axes.begin(), piece.axes.end());
    } else {
      result.push_back(std::move(piece));
    }
  }
  return result;
}

std::optional<std::vector<Pieces>> split(const Pieces& pieces, const std::vector<Part>& parts, const Mesh& mesh) {
  std::vector<Pieces> factors;
  std::size_t next = 0;
  Piece rest;  // of a piece that a factor took a part of
  for (const Part& part : parts) {
    std::int64_t size = part.size;
    Pieces factor;
    while (size > 1) {
      if (rest.size == 1 && rest.axes.empty()) {
        if (next == pieces.size()) return std::nullopt;
        rest = pieces[next++];
      }
      if (size % rest.size == 0) {
        factor.push_back(rest);
        size /= rest.size;
        rest = {};
      } else if (rest.size % size == 0) {
        const Axes taken = part.is_divisible ? axes_for_factor(rest.axes, size, mesh) : Axes{};
        factor.push_back({size, taken});
        rest = {rest.size / size, Axes(rest.axes.begin() + static_cast<long>(taken.size()), rest.axes.end())};
        size = 1;
      } else {
        return std::nullopt;
      }
    }
    factors.push_back(canonical(std::move(factor), mesh));
  }
  return factors;
}

Pieces join(const std::vector<Pieces>& factors, const Mesh& mesh) {
  Pieces all;
  for (const Pieces& factor : factors) all.insert(all.end(), factor.begin(), factor.end());
  return canonical(std::move(all), mesh);
}

std::int64_t local_size(const Pieces& pieces, const Mesh& mesh) {
  std::int64_t size = 1;
  for (const Piece& piece : pieces) {
    std::int64_t chunk = piece.size;
    for (int axis : piece.axes) chunk = (chunk + mesh[axis].size - 1) / mesh[axis].size;
    size *= chunk;
  }
  return size;
}

}  // namespace merak::sharding
