#pragma once
// Cutting messages. A *shard* is one rank's share of a message, a *segment* is what travels as one message.

#include <algorithm>
#include <cstddef>
#include <vector>

#include "transport/program.h"

namespace merak {

// Messages up to this size are sent at once, whatever else is on the wire: ordering them would take longer.
inline constexpr std::size_t kAtOnceBytes = 64 * 1024;
// Reduces and copies are cut at this size: they run on the engine's thread, where everything else waits for them.
inline constexpr std::size_t kLargestStep = 512 * 1024;

struct Range {
  std::size_t offset = 0, bytes = 0;

  bool operator==(const Range&) const = default;
};

// Shard `index` of `count`: cut between elements, sizes differ by one element at most.
inline Range shard_of(std::size_t bytes, std::size_t element_bytes, int count, int index) {
  const std::size_t elements = bytes / element_bytes, size = elements / count, longer = elements % count;
  const std::size_t i = static_cast<std::size_t>(index);
  return {(i * size + std::min(i, longer)) * element_bytes, (size + (i < longer ? 1 : 0)) * element_bytes};
}

// The segments of a range, of segment_bytes each but for the last. Of an empty range: none.
inline std::vector<Range> segments_of(Range whole, std::size_t segment_bytes) {
  std::vector<Range> segments;
  segments.reserve((whole.bytes + segment_bytes - 1) / segment_bytes);
  for (std::size_t begin = 0; begin < whole.bytes; begin += segment_bytes)
    segments.push_back({whole.offset + begin, std::min(segment_bytes, whole.bytes - begin)});
  return segments;
}

// `bytes` rounded down to whole elements, one at least.
inline std::size_t whole_elements(std::size_t bytes, std::size_t element_bytes) {
  return std::max(bytes / element_bytes, std::size_t{1}) * element_bytes;
}

// Copies in steps of kLargestStep.
inline void copy_in_steps(Program& program, Place at, Place from, std::size_t bytes) {
  for (const Range piece : segments_of({0, bytes}, kLargestStep))
    program.copy({at.buffer, at.offset + piece.offset}, {from.buffer, from.offset + piece.offset}, piece.bytes);
}

// n modulo size, from 0 to size - 1 for negative n too.
inline int wrap(int n, int size) { return (n % size + size) % size; }

}  // namespace merak
