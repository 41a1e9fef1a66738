#include "collectives/ring_all_reduce.h"

#include <algorithm>

#include "collectives/cut.h"
#include "collectives/slots.h"

namespace merak {
namespace {

constexpr std::size_t kScratchBytes = 8 * 1024 * 1024;

// Enough for all that arrives, where that is little: then no receive waits for a grant.
std::size_t slots_for(std::size_t arrivals, std::size_t slot_bytes) {
  return std::clamp(kScratchBytes / slot_bytes, std::size_t{2}, std::max(arrivals, std::size_t{2}));
}

}  // namespace

double ring_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs) {
  if (topology.size() == 1) return 0;
  const LinkCosts link = chain_link(topology, costs);
  const std::size_t shard_bytes = shard_of(message_bytes, 1, topology.size(), 0).bytes;
  const int rounds = topology.size() - 1;
  return ring_seconds(rounds, shard_bytes, true, link) + ring_seconds(rounds, shard_bytes, false, link);
}

Program ring_all_reduce(Ring ring, std::size_t message_bytes, std::size_t element_bytes, std::size_t segment_bytes) {
  const int size = ring.size();
  Program program;
  if (size == 1 || message_bytes == 0) return program;
  const auto shard = [&](int position) {
    return segments_of(shard_of(message_bytes, element_bytes, size, wrap(position, size)), segment_bytes);
  };
  const std::size_t slot_bytes = std::min(segment_bytes, shard(0).front().bytes);
  Slots slots(program, slot_bytes, slots_for(shard(0).size() * (size - 1), slot_bytes));
  program.steps.reserve(5 * shard(0).size() * size);

  std::vector<std::uint32_t> ready;  // by segment: the step after which the shard to be passed on may go
  const auto pass_on = [&](Range segment, std::size_t i) {
    std::vector<std::uint32_t> after;
    if (!ready.empty()) after = {ready[i]};
    program.send(ring.next(), {kOutput, segment.offset}, segment.bytes, after);
  };
  const auto add = [&](Range segment, bool completes) {
    const Slots::Slot slot = slots.take();
    const std::uint32_t arrival = program.receive(ring.previous(), slot.place, segment.bytes, slot.after);
    const std::uint32_t sum =
        program.reduce({kOutput, segment.offset}, slot.place, segment.bytes, {arrival}, completes);
    slots.release(slot, sum);
    return sum;
  };
  // A receive into the output needs not wait for the send of the partial sum that stood there: the result cannot come
  // before that sum has been all the way around.
  const auto replace = [&](Range segment) {
    return program.receive(ring.previous(), {kOutput, segment.offset}, segment.bytes);
  };
  for (int round = 0; round < 2 * (size - 1); ++round) {
    const std::vector<Range> leaving = shard(ring.position - round), coming = shard(ring.position - round - 1);
    std::vector<std::uint32_t> next_ready;
    for (std::size_t i = 0; i < std::max(leaving.size(), coming.size()); ++i) {
      if (i < leaving.size()) pass_on(leaving[i], i);
      if (i < coming.size())
        next_ready.push_back(round < size - 1 ? add(coming[i], round == size - 2) : replace(coming[i]));
    }
    ready = std::move(next_ready);
  }
  return program;
}

}  // namespace merak
