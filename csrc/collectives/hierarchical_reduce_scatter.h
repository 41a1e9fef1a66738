#pragma once
// Reduce-scatter where hosts have several ranks (hierarchy.h). A *bundle* is the shards of those ranks of one host that
// a stripe serves. All locals send their contributions to a bundle to the stripe's delegate. Around the stripe's ring
// go the sums, as in ring_reduce_scatter.h: every delegate adds its own contribution and those of its locals; the last
// one, on the bundle's own host, hands the shards to those whom they belong to.
//
// The input stays as it is: sums are made in slots of scratch memory (slots.h) and leave from there. As there, shards
// are cut into *laps*, so that little memory is enough.
//
// Bytes on the wire: what leaves a host is the bundles of all hosts but its own, so for h hosts with r ranks each and
// shards of V bytes, (h - 1) r V.
// Time: that of a ring of h ranks with bundles of r V in all, and one segment's way inside before it and after it;
// or the work on as many messages as in hierarchical_all_gather.h, if that is more.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

Program hierarchical_reduce_scatter(const Topology& topology, int rank, std::size_t shard_bytes,
                                    std::size_t element_bytes);

double hierarchical_reduce_scatter_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs);

}  // namespace merak
