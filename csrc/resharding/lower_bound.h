#pragma once
// The least time that any plan takes, whoever sends what in whatever pieces and order.
//
//   in    What is wanted on a host and not held there has to enter by its link, once.
//   out   What only the hosts of a set hold, and others want, has to leave by their links: for every set of hosts, the
//         bytes over the bandwidth of all of them. The worst set is found by discrete Newton steps: share the bytes out
//         so that all links are busy for T seconds, as a flow from what is held to the hosts; what does not fit shows a
//         set that needs longer, and the next T is what that set needs. The last T is the least, over all ways to share
//         out, of the time of the busiest link.
//   all   What enters somewhere has left somewhere: all bytes over the bandwidth of all hosts.
//   rank  What a rank wants and its neighbours on the host have takes its path inside, or the host's link if that is
//         faster.
//
// A value that is reduced: each contributor's part has to leave the hosts that hold it, if someone elsewhere wants the
// result; contributors with hosts in common may leave as one, so only contributors with no host in common count.
//
// Each with the latency of one message. A longest unit is no bound of its own: units can be cut.

#include "resharding/buckets.h"
#include "resharding/network.h"

namespace merak {

struct LowerBound {
  double seconds = 0;
  std::vector<double> bytes_in;  // by host: what has to enter

  bool operator==(const LowerBound&) const = default;
};

LowerBound lower_bound(const std::vector<Bucket>& buckets, const Network& network);

// Bytes, and the hosts that may share in sending them.
struct Share {
  std::vector<int> hosts;
  double bytes = 0;
};

// The time of the busiest host when the shares are sent in the best way, in fractions; by bytes/s of each host.
double least_busiest(const std::vector<Share>& shares, const std::vector<double>& bytes_per_s);

}  // namespace merak
