#pragma once
// All-reduce around a ring (ring.h), in place: a reduce-scatter, then an all-gather.
//
// Shard q is summed on its way around: it leaves position q, every position that it comes to adds its contribution and
// passes the sum on, and after n - 1 rounds position q - 1 holds the result. n - 1 more rounds carry the results
// around. Every shard is summed along one way, so all ranks get the same bits.
//
// What arrives in the first phase lands in one of a few slots of scratch memory (slots.h) and is added to the output.
//
// Bytes on the wire: every rank sends 2 (n - 1) / n of the message, the least possible.
// Time, for V bytes: 2 (n - 1) rounds of shards of V / n, so 2 (n - 1)/n V b for a large message.
// Source: P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.

#include <cstddef>
#include <vector>

#include "collectives/cut.h"
#include "collectives/ring.h"
#include "collectives/slots.h"
#include "transport/program.h"

namespace merak {

// segment_bytes: whole elements.
Program ring_all_reduce(Ring ring, std::size_t message_bytes, std::size_t element_bytes, std::size_t segment_bytes);

double ring_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs);

// Appends ring all-reduces to a program that does other things too.
class RingAllReducer {
 public:
  // `slots`: of at least segment_bytes. Both outlive this.
  RingAllReducer(Program& program, Slots& slots, Ring ring, std::size_t element_bytes, std::size_t segment_bytes)
      : program_(program), slots_(slots), ring_(ring), element_bytes_(element_bytes), segment_bytes_(segment_bytes) {}

  struct Result {
    Range segment;       // of the output
    std::uint32_t step;  // after which it holds the result
  };

  // Reduces a range of the output, in which this rank's contribution stands after the steps `own`. Needs two ranks.
  std::vector<Result> append(Range message, const std::vector<std::uint32_t>& own);

 private:
  std::vector<Range> shard(Range message, int position) const;
  std::uint32_t add(Range segment, const std::vector<std::uint32_t>& own, bool completes);

  Program& program_;
  Slots& slots_;
  const Ring ring_;
  const std::size_t element_bytes_, segment_bytes_;
};

}  // namespace merak
