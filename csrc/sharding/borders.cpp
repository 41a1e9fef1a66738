#include "sharding/borders.h"

#include <algorithm>

namespace merak::sharding {
namespace {

std::int64_t size_of(const Pieces& pieces) {
  std::int64_t size = 1;
  for (const Piece& piece : pieces) size *= piece.size;
  return size;
}

std::vector<Range> chunks(const Pieces& pieces, int ranks, const Mesh& mesh) {
  const std::int64_t whole = size_of(pieces);
  const Axes axes = axes_of(pieces);
  if (axes.empty()) return std::vector<Range>(ranks, {0, whole});
  const std::int64_t units = pieces.front().size, chunk = (units + ranks - 1) / ranks;
  std::vector<Range> ranges;
  for (std::int64_t rank = 0; rank < ranks_along(mesh, axes); ++rank)
    ranges.push_back(
        {std::min(rank * chunk, units) * whole / units, std::min((rank + 1) * chunk, units) * whole / units});
  return ranges;
}

// What the elements of a chunk are computed from, padding included.
Range covered(const Window& window, Range chunk) {
  if (chunk.begin == chunk.end) return {};
  const std::int64_t first = chunk.begin * window.stride - window.before;
  const std::int64_t last = (chunk.end - 1) * window.stride - window.before;
  return {std::min(first, last), std::max(first, last) + window.extent};
}

void need_around(Range range, std::int64_t size, Borders& borders) {
  const std::int64_t length = range.end - range.begin;
  const std::int64_t begin = ((range.begin % size) + size) % size;
  const std::int64_t behind = std::max<std::int64_t>(0, begin + length - size);
  borders.need.push_back({Range{begin, begin + length - behind}, Range{0, behind}});
  borders.padding.emplace_back(0, 0);
}

void need_within(Range range, std::int64_t size, Borders& borders) {
  const Range there{std::clamp<std::int64_t>(range.begin, 0, size), std::clamp<std::int64_t>(range.end, 0, size)};
  const std::int64_t missing = (range.end - range.begin) - (there.end - there.begin);
  const std::int64_t before = std::clamp<std::int64_t>(-range.begin, 0, missing);
  borders.need.push_back({there, Range{}});
  borders.padding.emplace_back(before, missing - before);
}

std::int64_t common(Range one, Range other) {
  return std::max<std::int64_t>(0, std::min(one.end, other.end) - std::max(one.begin, other.begin));
}

// Of what a rank has, how much another needs.
std::int64_t gives(const Borders& borders, std::size_t from, std::size_t to) {
  return from == to ? 0
                    : common(borders.have[from], borders.need[to][0]) + common(borders.have[from], borders.need[to][1]);
}

// The largest of what ranks exchange with all others.
template <typename Exchanged>
std::int64_t most(const Borders& borders, Exchanged exchanged) {
  std::int64_t most = 0;
  for (std::size_t rank = 0; rank < borders.have.size(); ++rank) {
    std::int64_t sum = 0;
    for (std::size_t other = 0; other < borders.have.size(); ++other) sum += exchanged(rank, other);
    most = std::max(most, sum);
  }
  return most;
}

}  // namespace

bool is_in_chunks(const Pieces& pieces) { return axes_of(pieces).size() == 1 && pieces.front().axes.size() == 1; }

Borders borders_of(const Window& window, const Pieces& from, const Pieces& to, const Mesh& mesh) {
  const int ranks = ranks_along(mesh, axes_of(to));
  Borders borders;
  borders.have = chunks(from, ranks, mesh);
  for (const Range& chunk : chunks(to, ranks, mesh)) {
    borders.lengths.push_back(chunk.end - chunk.begin);
    (window.wraps ? need_around : need_within)(covered(window, chunk), size_of(from), borders);
  }
  return borders;
}

bool is_exchanged(const Borders& borders) {
  for (std::size_t rank = 0; rank < borders.have.size(); ++rank)
    if (borders.need[rank] != std::array<Range, 2>{borders.have[rank], Range{}}) return true;
  return false;
}

std::int64_t most_sent(const Borders& borders) {
  return most(borders, [&](std::size_t rank, std::size_t other) { return gives(borders, rank, other); });
}

std::int64_t most_received(const Borders& borders) {
  return most(borders, [&](std::size_t rank, std::size_t other) { return gives(borders, other, rank); });
}

}  // namespace merak::sharding
