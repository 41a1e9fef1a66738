#pragma once
// All-to-all in ordered rounds: in round i = 1, ..., n - 1 every rank sends to the rank i after it and receives from
// the rank i before it. In each round every rank's link thus carries one part out and one part in.
//
// Large parts are cut into segments. A rank sends its next segment when the one kWindow before it, in the order of
// rounds, has come: so all ranks go through the rounds together, no receiver's link is shared by several senders for
// long while other links idle, and little waits in the kernel's buffers. Small parts are all sent at once: that is the
// *direct* all-to-all.
//
// With uneven parts a rank knows its own only, and a round is as long as its largest part. Then every part is one
// message, and a rank waits for its own sends; small ones it sends at once. Both fit together, so that is each rank's
// own affair.
//
// Bytes on the wire: every rank sends all its parts but its own.
// Time, for parts of V bytes: a + 2m + (n - 1) V b in rounds, or the work on their segments if that is more; as
// direct_all_gather.h at once; several ranks of a host share its link.

#include <cstddef>
#include <vector>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

inline constexpr std::size_t kAllToAllSegment = 256 * 1024;

// n parts of part_bytes, in segments. Needs segment_bytes > 0.
Program pairwise_all_to_all(int rank, int size, std::size_t part_bytes, std::size_t segment_bytes);

// The part for each rank, and the one from each, lie one after another; those of no bytes have no message. `at_once`:
// no send waits.
Program uneven_all_to_all(int rank, const std::vector<std::size_t>& send_bytes,
                          const std::vector<std::size_t>& receive_bytes, bool at_once);

double pairwise_all_to_all_seconds(const Topology& topology, std::size_t part_bytes, const Costs& costs);

}  // namespace merak
