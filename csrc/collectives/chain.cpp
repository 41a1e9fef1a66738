#include "collectives/chain.h"

#include <algorithm>
#include <cmath>

#include "collectives/cut.h"

namespace merak {
namespace {

constexpr double kSmallestSegment = 8 * 1024, kLargestSegment = 256 * 1024;

// How many links of the chain lead to the next host, and how many to the next rank of the same.
struct Links {
  explicit Links(const Topology& topology)
      : between(static_cast<int>(ranks_by_host(topology).size()) - 1), inside(topology.size() - 1 - between) {}
  int between, inside;
};

}  // namespace

std::size_t chain_segment_bytes(const Topology& topology, std::size_t message_bytes, std::size_t element_bytes,
                                const Costs& costs) {
  const Links links(topology);
  const double all = links.between * costs.seconds_per_byte + links.inside * costs.seconds_per_byte_inside;
  const double slowest = chain_link(topology, costs).seconds_per_byte;
  const double best =
      std::sqrt(costs.per_message_s * static_cast<double>(message_bytes) / std::max(all - slowest, slowest));
  return whole_elements(static_cast<std::size_t>(std::clamp(best, kSmallestSegment, kLargestSegment)), element_bytes);
}

double chain_seconds(const Topology& topology, std::size_t message_bytes, bool reduces, const Costs& costs) {
  if (topology.size() == 1 || message_bytes == 0) return 0;
  const Links links(topology);
  const LinkCosts slowest = chain_link(topology, costs);
  const std::size_t segment = std::min(message_bytes, chain_segment_bytes(topology, message_bytes, 1, costs));
  const double segments = std::ceil(static_cast<double>(message_bytes) / static_cast<double>(segment));
  const double adding = reduces ? slowest.reduce_s(segment) : 0;
  const double wire = static_cast<double>(segment) * slowest.seconds_per_byte;
  const double work = 2 * slowest.per_message_s + adding;
  return (segments - 1) * std::max(wire, work) + links.between * (between_link(costs).message_s(segment) + adding) +
         links.inside * (inside_link(costs).message_s(segment) + adding);
}

}  // namespace merak
