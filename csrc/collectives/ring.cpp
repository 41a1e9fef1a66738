#include "collectives/ring.h"

#include <algorithm>
#include <cmath>

#include "collectives/cut.h"

namespace merak {
namespace {

constexpr std::size_t kSmallestSegment = 32 * 1024, kLargestSegment = 256 * 1024, kSegmentsOfShard = 4;

}  // namespace

std::size_t ring_segment_bytes(std::size_t shard_bytes, std::size_t element_bytes) {
  const std::size_t wanted = std::clamp(shard_bytes / kSegmentsOfShard, kSmallestSegment, kLargestSegment);
  return whole_elements(wanted, element_bytes);
}

double ring_seconds(int rounds, std::size_t shard_bytes, bool reduces, const LinkCosts& slowest,
                    const LinkCosts& average) {
  if (rounds == 0 || shard_bytes == 0) return 0;
  const std::size_t segment = std::min(shard_bytes, ring_segment_bytes(shard_bytes, 1));
  const double segments = std::ceil(static_cast<double>(shard_bytes) / static_cast<double>(segment));
  const double wire = static_cast<double>(shard_bytes) * slowest.seconds_per_byte;
  const double work = segments * 2 * slowest.per_message_s + (reduces ? slowest.reduce_s(shard_bytes) : 0);
  const double turn = average.message_s(segment) + (reduces ? average.reduce_s(segment) : 0);
  const double last = std::max(wire, work) * (segments - 1) / segments + turn;
  return (rounds - 1) * std::max({wire, work, turn}) + last;
}

}  // namespace merak
