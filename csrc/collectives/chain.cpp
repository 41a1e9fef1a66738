#include "collectives/chain.h"

#include <algorithm>
#include <cmath>

#include "collectives/cut.h"

namespace merak {
namespace {

constexpr double kSmallestSegment = 8 * 1024, kLargestSegment = 256 * 1024;

}  // namespace

std::size_t chain_segment_bytes(int size, std::size_t message_bytes, std::size_t element_bytes, const LinkCosts& link) {
  const double passings = std::max(1, size - 2);
  const double best =
      std::sqrt(link.per_message_s * static_cast<double>(message_bytes) / (passings * link.seconds_per_byte));
  return whole_elements(static_cast<std::size_t>(std::clamp(best, kSmallestSegment, kLargestSegment)), element_bytes);
}

double chain_seconds(int size, std::size_t message_bytes, bool reduces, const LinkCosts& link) {
  if (size == 1 || message_bytes == 0) return 0;
  const std::size_t segment = std::min(message_bytes, chain_segment_bytes(size, message_bytes, 1, link));
  const double segments = std::ceil(static_cast<double>(message_bytes) / static_cast<double>(segment));
  const double adding = reduces ? link.reduce_s(segment) : 0;
  const double wire = static_cast<double>(segment) * link.seconds_per_byte;
  const double work = 2 * link.per_message_s + adding;
  return (segments - 1) * std::max(wire, work) + (size - 1) * (link.message_s(segment) + adding);
}

}  // namespace merak
