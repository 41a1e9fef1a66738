#include "resharding/pricing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace merak {
namespace {

// All messages from a rank to another in a relay: those of the chain that reduces, then the hops.
std::vector<Hop> messages_of(const Relay& relay) {
  std::vector<Hop> messages;
  for (std::size_t i = 1; i < relay.reduce_chain.size(); ++i)
    messages.push_back({relay.reduce_chain[i - 1], relay.reduce_chain[i]});
  messages.insert(messages.end(), relay.hops.begin(), relay.hops.end());
  return messages;
}

struct Depth {
  double hops = 0, latency_s = 0;
};

// Of the rank that is reached last.
Depth depth_of(const Relay& relay, const Network& network) {
  std::map<int, Depth> depth;
  Depth deepest;
  for (Hop hop : messages_of(relay)) {
    const bool crosses = network.host_of[hop.from] != network.host_of[hop.to];
    Depth there = depth[hop.from];
    there.hops += 1;
    there.latency_s += (crosses ? network.latency_s : network.latency_inside_s) + 2 * network.per_message_s;
    depth[hop.to] = there;
    if (there.latency_s > deepest.latency_s) deepest.latency_s = there.latency_s;
    deepest.hops = std::max(deepest.hops, there.hops);
  }
  return deepest;
}

std::vector<Use> uses_of(const Relay& relay, const Network& network) {
  const std::size_t links = 2 * network.hosts.size();
  std::map<std::size_t, double> weight;
  for (Hop hop : messages_of(relay)) {
    const auto from = static_cast<std::size_t>(hop.from), to = static_cast<std::size_t>(hop.to);
    const auto host_from = static_cast<std::size_t>(network.host_of[from]);
    const auto host_to = static_cast<std::size_t>(network.host_of[to]);
    const bool crosses = host_from != host_to;
    weight[crosses ? 2 * host_from : links + 2 * from] += 1;
    weight[crosses ? 2 * host_to + 1 : links + 2 * to + 1] += 1;
  }
  std::vector<Use> uses;
  for (auto [resource, sum] : weight) uses.push_back({resource, sum});
  return uses;
}

std::vector<std::size_t> lanes_of(const Relay& relay, const Network& network) {
  std::set<std::size_t> lanes;
  for (Hop hop : messages_of(relay))
    if (network.host_of[hop.from] != network.host_of[hop.to]) {
      lanes.insert(2 * static_cast<std::size_t>(hop.from));
      lanes.insert(2 * static_cast<std::size_t>(hop.to) + 1);
    }
  return {lanes.begin(), lanes.end()};
}

double slowest(const std::vector<Use>& uses, const std::vector<double>& bytes_per_s) {
  double rate = std::numeric_limits<double>::infinity();
  for (const Use& use : uses) rate = std::min(rate, bytes_per_s[use.resource] / use.weight);
  return rate;
}

}  // namespace

std::vector<double> bandwidths_of(const Network& network) {
  std::vector<double> bytes_per_s;
  for (const HostLinks& host : network.hosts) {
    bytes_per_s.push_back(host.out_bytes_per_s);
    bytes_per_s.push_back(host.in_bytes_per_s);
  }
  for (int host : network.host_of) bytes_per_s.insert(bytes_per_s.end(), 2, network.hosts[host].inside_bytes_per_s);
  return bytes_per_s;
}

std::size_t segment_bytes(const Relay& relay, std::size_t bytes, const Network& network) {
  const double later_hops = depth_of(relay, network).hops - 1;
  if (later_hops < 1) return kLargestSegment;
  const double rate = slowest(uses_of(relay, network), bandwidths_of(network));
  const double best = std::sqrt(2 * network.per_message_s * rate * static_cast<double>(bytes) / later_hops);
  const double within = std::clamp(best, double{kSmallestSegment}, double{kLargestSegment});
  return static_cast<std::size_t>(within) / kPayloadUnit * kPayloadUnit;
}

Flow flow_of(const Relay& relay, std::size_t bytes, const Network& network) {
  const Depth depth = depth_of(relay, network);
  const double segment = static_cast<double>(std::min(bytes, segment_bytes(relay, bytes, network)));
  const double adders = static_cast<double>(relay.reduce_chain.size() - 1);
  return {.uses = uses_of(relay, network),
          .lanes = lanes_of(relay, network),
          .bytes = static_cast<double>(bytes),
          .latency_s = depth.latency_s + adders * segment * network.reduce_seconds_per_byte,
          .trailing_bytes = std::max(0.0, depth.hops - 1) * segment};
}

double seconds_alone(const Flow& flow, const std::vector<double>& bytes_per_s) {
  return (flow.bytes + flow.trailing_bytes) / slowest(flow.uses, bytes_per_s) + flow.latency_s;
}

}  // namespace merak
