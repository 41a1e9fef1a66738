#pragma once
// What relays cost on a network: the resources that they use, how they are cut into segments, what they take alone.
//
// A relay of V bytes whose slowest resource lets b bytes/s through, h hops deep, in segments of c bytes takes alone
//
//     V/b + h (a + 2m) + (h - 1) c/b + r (c g)
//
// with latency a, m per message, and r ranks of a chain that add up at g per byte. Small segments make the third term
// small, but cost 2m each; c = sqrt(2 m b V / (h - 1)) balances the two.

#include "resharding/link_sharing.h"
#include "resharding/relay.h"

namespace merak {

inline constexpr std::size_t kSmallestSegment = 8 * 1024;
inline constexpr std::size_t kLargestSegment = 256 * 1024;

// The bandwidth of each resource: of host h the link out, 2h, and the link in, 2h + 1; behind those of all hosts each
// rank's paths out to its neighbours and in from them.
std::vector<double> bandwidths_of(const Network& network);

// A multiple of kPayloadUnit.
std::size_t segment_bytes(const Relay& relay, std::size_t bytes, const Network& network);

// It queues at the ranks that send to other hosts, 2 r, and at those that receive from them, 2 r + 1.
Flow flow_of(const Relay& relay, std::size_t bytes, const Network& network);

// The time of a flow that has all its resources for itself.
double seconds_alone(const Flow& flow, const std::vector<double>& bytes_per_s);

}  // namespace merak
