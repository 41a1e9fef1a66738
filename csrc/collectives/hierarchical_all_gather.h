#pragma once
// All-gather where hosts have several ranks (hierarchy.h). Locals give each other their shards. Around the ring of each
// stripe go, as one *bundle* a host, the shards of the ranks that the stripe serves there; what a delegate receives it
// passes on, and hands out to its locals.
//
// Bytes on the wire: what leaves a host is the shards of all hosts but the next one's, so for h hosts with r ranks each
// and shards of V bytes, (h - 1) r V.
// Time: that of a ring of h ranks with bundles of r V in all, and one segment's way inside before it and after it; or
// the work on 2 (r - 1 + (h - 1) r) messages a segment, if that is more.

#include <cstddef>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

// `in_place`: this rank's shard stands in its place of the output.
Program hierarchical_all_gather(const Topology& topology, int rank, std::size_t shard_bytes, bool in_place);

// How many messages a rank sends and receives, in all_gather and reduce_scatter.
double hierarchical_messages(int hosts, int locals, std::size_t shard_bytes);

double hierarchical_all_gather_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs);

}  // namespace merak
