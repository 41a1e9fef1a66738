#pragma once
// All-to-all in cycles. Every part is cut into segments; in cycle s = 0, 1, ... every rank sends segment s of its part
// for the rank i after it, and receives segment s of the part of the rank i before it, for i = 1, ..., n - 1. So every
// rank's link carries as much in as out, at any time.
//
// A rank sends a segment to the rank i after it when the one `all_to_all_window` cycles earlier has come from the rank
// i before it. So all ranks go through the cycles together, no receiver's link is shared by several senders for long
// while other links idle, and little waits in the kernel's buffers. (With four times as much on its way, 2 MiB between
// 4 hosts took 20 % longer: ranks then end so far apart.) And every connection is in use until the end: had a rank sent
// one part after another, each connection would have rested meanwhile, and after a rest TCP starts slowly (at 8 hosts
// that took 6-10 % longer).
//
// Parts may be uneven: a cycle then leaves out those that have ended. Where the segment to wait for does not exist, a
// rank does not wait; who waits for what is each rank's own affair, and a segment waits only for one of an earlier
// cycle, so that none waits for itself.
//
// Bytes on the wire: every rank sends all its parts but its own.
// Time, for parts of V bytes: a + 2m + (n - 1) V b, or the work on their segments if that is more, or their turns;
// several ranks of a host share its link.

#include <algorithm>
#include <cstddef>
#include <vector>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

inline constexpr std::size_t kAllToAllSegment = 48 * 1024;
// What a rank has on its way at least: enough for 10 Gbit/s and a delay of 200 us.
inline constexpr std::size_t kAllToAllBytesUnderWay = 256 * 1024;

// In cycles.
inline std::size_t all_to_all_window(int ranks) {
  const std::size_t cycle = kAllToAllSegment * static_cast<std::size_t>(std::max(ranks - 1, 1));
  return std::max<std::size_t>(2, (kAllToAllBytesUnderWay + cycle - 1) / cycle);
}

// The part for each rank lies one after another in kInput, those from each rank in kOutput; a part of no bytes has no
// message. Needs segment_bytes > 0, the same on all ranks.
Program pairwise_all_to_all(int rank, const std::vector<std::size_t>& send_bytes,
                            const std::vector<std::size_t>& receive_bytes, std::size_t segment_bytes);

double pairwise_all_to_all_seconds(const Topology& topology, std::size_t part_bytes, const Costs& costs);

}  // namespace merak
