#include "collectives/ring_all_reduce.h"

#include <algorithm>

namespace merak {

double ring_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs) {
  if (topology.size() == 1) return 0;
  const LinkCosts slowest = chain_link(topology, costs), average = average_link(topology, costs);
  const std::size_t shard_bytes = shard_of(message_bytes, 1, topology.size(), 0).bytes;
  const int rounds = topology.size() - 1;
  return ring_seconds(rounds, shard_bytes, true, slowest, average) +
         ring_seconds(rounds, shard_bytes, false, slowest, average);
}

Program ring_all_reduce(Ring ring, std::size_t message_bytes, std::size_t element_bytes, std::size_t segment_bytes) {
  Program program;
  if (ring.size() == 1 || message_bytes == 0) return program;
  const std::size_t shard_bytes = shard_of(message_bytes, element_bytes, ring.size(), 0).bytes;
  const std::size_t segments = (shard_bytes + segment_bytes - 1) / segment_bytes;
  program.steps.reserve(5 * segments * ring.ranks.size());
  Slots slots(program, std::min(segment_bytes, shard_bytes), segments * (ring.ranks.size() - 1));
  RingAllReducer(program, slots, ring, element_bytes, segment_bytes).append({0, message_bytes}, {});
  return program;
}

std::vector<RingAllReducer::Result> RingAllReducer::append(Range message, const std::vector<std::uint32_t>& own) {
  const int rounds = ring_.size() - 1;
  std::vector<Result> leaving, results;  // the shard to be passed on, once it stands in the output
  for (const Range segment : shard(message, ring_.position)) leaving.push_back({segment, 0});
  for (int round = 0; round < 2 * rounds; ++round) {
    const std::vector<Range> coming = shard(message, ring_.position - round - 1);
    std::vector<Result> next;
    for (std::size_t i = 0; i < std::max(leaving.size(), coming.size()); ++i) {
      if (i < leaving.size())
        program_.send(ring_.next(), {kOutput, leaving[i].segment.offset}, leaving[i].segment.bytes,
                      round == 0 ? own : std::vector{leaving[i].step});
      if (i >= coming.size()) continue;
      // In the second phase there is no need to wait for the send of the partial sum that stood there: the result
      // cannot come before that sum has been all the way around.
      const std::uint32_t step = round < rounds
                                     ? add(coming[i], own, round == rounds - 1)
                                     : program_.receive(ring_.previous(), {kOutput, coming[i].offset}, coming[i].bytes);
      next.push_back({coming[i], step});
    }
    if (round >= rounds - 1) results.insert(results.end(), next.begin(), next.end());
    leaving = std::move(next);
  }
  return results;
}

std::vector<Range> RingAllReducer::shard(Range message, int position) const {
  Range range = shard_of(message.bytes, element_bytes_, ring_.size(), wrap(position, ring_.size()));
  range.offset += message.offset;
  return segments_of(range, segment_bytes_);
}

std::uint32_t RingAllReducer::add(Range segment, const std::vector<std::uint32_t>& own, bool completes) {
  const Slots::Slot slot = slots_.take();
  std::vector<std::uint32_t> after = own;
  after.push_back(program_.receive(ring_.previous(), slot.place, segment.bytes, slot.after));
  const std::uint32_t sum = program_.reduce({kOutput, segment.offset}, slot.place, segment.bytes, after, completes);
  slots_.release(slot, sum);
  return sum;
}

}  // namespace merak
