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

double ring_seconds(int rounds, std::size_t shard_bytes, bool reduces, const LinkCosts& link) {
  if (rounds == 0 || shard_bytes == 0) return 0;
  const std::size_t segment = std::min(shard_bytes, ring_segment_bytes(shard_bytes, 1));
  const double segments = std::ceil(static_cast<double>(shard_bytes) / static_cast<double>(segment));
  const double wire = static_cast<double>(shard_bytes) * link.seconds_per_byte;
  const double work = segments * 2 * link.per_message_s + (reduces ? link.reduce_s(shard_bytes) : 0);
  const double turn = link.message_s(segment) + (reduces ? link.reduce_s(segment) : 0);
  return (rounds - 1) * std::max({wire, work, turn}) + std::max(wire, work) + turn -
         static_cast<double>(segment) * link.seconds_per_byte;
}

}  // namespace merak
