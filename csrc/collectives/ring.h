#pragma once
// What all rings share. n ranks stand in a ring; each sends to its *next* and receives from its *previous* only. A
// message is n *shards*; in each of the ring's *rounds* every rank passes one shard on while it receives another.
//
// A shard travels in segments, so that a rank passes the first on while it receives the second. Then a round takes
// as long as the slowest of: the shard on the wire, V/n b; the rank's own work; one segment's turn from rank to rank.

#include <cstddef>
#include <vector>

#include "collectives/costs.h"

namespace merak {

struct Ring {
  const std::vector<int>& ranks;  // in order
  int position;                   // this rank's place in it

  int size() const { return static_cast<int>(ranks.size()); }
  int next() const { return ranks[(position + 1) % ranks.size()]; }
  int previous() const { return ranks[(position + ranks.size() - 1) % ranks.size()]; }
};

// A segment long enough to be worth a message, short enough that a shard is several; whole elements.
std::size_t ring_segment_bytes(std::size_t shard_bytes, std::size_t element_bytes);

// Seconds of `rounds` rounds; `reduces`: each rank adds what it receives. `slowest` and `average`: of the ring's links.
double ring_seconds(int rounds, std::size_t shard_bytes, bool reduces, const LinkCosts& slowest,
                    const LinkCosts& average);

}  // namespace merak
