#pragma once
// How a payload goes from who holds it to who wants it: a *relay*. It begins at a sender; *hops* from one rank to the
// next make a tree, in which a rank passes segments on while later ones still arrive. Where values have to be reduced,
// a chain of one rank for each contributor comes before: each adds its own to what it gets and passes the sum on, and
// the last of them is the sender.
//
//   inside           holders give to the other ranks of their own hosts; no relay below goes there again
//   point to point   sender -> receiver, a relay for each receiver: least latency, but a host's link carries the
//   payload
//                    once for each of its ranks
//   chain            sender -> a leader on each host in turn -> the others of its host: each link carries the payload
//                    once in each direction, a leader's path inside the host n - 1 times, for n receivers
//   striped          as many chains as a host has receivers at most, each for its share of the payload, the leader's
//                    part going around: no path inside carries more than the payload
//
// On the wire, one host, V bytes for n receivers on each of h other hosts: n h V leave the sender's host point to
// point, V in a chain. Hosts come in falling order of what their links let out, so that a slow one is last and passes
// nothing on.

#include <vector>

#include "resharding/buckets.h"
#include "resharding/network.h"

namespace merak {

struct Hop {
  int from = 0, to = 0;

  bool operator==(const Hop&) const = default;
};

struct Relay {
  std::vector<int>
      reduce_chain;       // a rank for each contributor; the last is the sender. Without a reduction: the sender
  std::vector<Hop> hops;  // from a rank that has the payload by then

  int sender() const { return reduce_chain.back(); }
  bool operator==(const Relay&) const = default;
};

// Receivers of a bucket that are not holders, by where they get it from.
struct Receivers {
  std::vector<int> inside;   // a holder is on their host
  std::vector<int> outside;  // none is; of a reduced bucket: all receivers
};

Receivers receivers_of(const Bucket& bucket, const Network& network);

// What serves the receivers inside: a relay for each holder that has something to give.
std::vector<Relay> inside_relays(const Bucket& bucket, const Network& network);

// All that differ in the sender's host (where values are reduced: in the host where the chain ends), in rising order of
// host. `turn` says whose turn it is among ranks of a host that could do the same.
std::vector<Relay> relays_to_one(const Bucket& bucket, const Network& network, int receiver, std::size_t turn);
std::vector<Relay> chain_relays(const Bucket& bucket, const Network& network, std::size_t turn);

// The most receivers outside that share a host: how many stripes are worth making.
std::size_t most_on_a_host(const Bucket& bucket, const Network& network);

}  // namespace merak
