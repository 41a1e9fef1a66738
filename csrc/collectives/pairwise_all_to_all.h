#pragma once
// All-to-all in ordered rounds: in round i = 1, ..., n - 1 every rank sends to the rank i after it and receives from
// the rank i before it. In each round every rank's link thus carries one part out and one part in.
//
// A large part is sent when the round before is over for this rank, so that no receiver's link is shared by several
// senders while other links idle. Small parts are all sent at once: that is the *direct* all-to-all. Every two ranks
// exchange one message in either case, so the order is each rank's own affair; with uneven parts, where a round is as
// long as its largest part, a rank waits for its own sends only.
//
// Bytes on the wire: every rank sends all its parts but its own.
// Time, for parts of V bytes: (n - 1) (a + 2m + V b) in rounds, as direct_all_gather.h at once; several ranks of a host
// share its link.

#include <cstddef>
#include <vector>

#include "collectives/costs.h"
#include "transport/program.h"

namespace merak {

enum class AllToAllOrder { kRounds, kOwnRounds, kAtOnce };

// Parts lie one after another; those of no bytes have no message.
Program pairwise_all_to_all(int rank, const std::vector<std::size_t>& send_bytes,
                            const std::vector<std::size_t>& receive_bytes, AllToAllOrder order);

double pairwise_all_to_all_seconds(const Topology& topology, std::size_t part_bytes, const Costs& costs);

}  // namespace merak
