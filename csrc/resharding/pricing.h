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

inline constexpr std::size_t kSmallestSegment = 64 * 1024;
inline constexpr std::size_t kLargestSegment = 1024 * 1024;

// Resources: of host h the link out is 2h, the link in 2h + 1; these are lanes. Behind them come each rank's paths out
// to its neighbours and in from them.
SharedLinks links_of(const Network& network);

// A multiple of kPayloadUnit.
std::size_t segment_bytes(const Relay& relay, std::size_t bytes, const Network& network);

Flow flow_of(const Relay& relay, std::size_t bytes, const Network& network);

// The time of a flow that has all its resources for itself.
double seconds_alone(const Flow& flow, const SharedLinks& links);

}  // namespace merak
