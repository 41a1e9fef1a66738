#include "collectives/hierarchical_all_reduce.h"

#include <algorithm>

#include "collectives/hierarchy.h"
#include "collectives/ring_all_reduce.h"

namespace merak {
namespace {

constexpr std::size_t kSmallestBlock = 512 * 1024, kLargestBlock = 4 * 1024 * 1024, kBlocks = 8;

std::size_t block_size(std::size_t message_bytes) {
  return std::clamp(message_bytes / kBlocks, kSmallestBlock, kLargestBlock);
}

class AllReduce {
 public:
  AllReduce(const Topology& topology, int rank, std::size_t message_bytes, std::size_t element_bytes)
      : hierarchy_(topology, rank),
        peers_(hierarchy_.peers()),
        element_bytes_(element_bytes),
        blocks_(segments_of({0, message_bytes}, whole_elements(block_size(message_bytes), element_bytes))),
        segment_bytes_(ring_segment_bytes(ring_shard_bytes(), element_bytes)) {}

  Program run() {
    if (!hierarchy_.is_delegate()) {
      for (const Range block : blocks_) give(block), get(block);
      return std::move(program_);
    }
    const std::size_t segments = stripe(blocks_.front(), 0).bytes / segment_bytes_ + 1;
    Slots contributions(program_, segment_bytes_, segments * blocks_.size() * peers_.size());
    Slots sums(program_, segment_bytes_, (segments + hierarchy_.hosts.size()) * blocks_.size());
    RingAllReducer reducer(program_, sums, hierarchy_.ring(), element_bytes_, segment_bytes_);
    for (const Range block : blocks_) {
      const Range mine = stripe(block, hierarchy_.index);
      give(block);
      hand_out(reducer.append(mine, add_locals(contributions, mine)));
      get(block);
    }
    return std::move(program_);
  }

 private:
  std::size_t ring_shard_bytes() const {
    return blocks_.empty() ? 0 : blocks_.front().bytes / (hierarchy_.stripes * hierarchy_.hosts.size());
  }

  Range stripe(Range block, int index) const {
    const Range stripe = shard_of(block.bytes, element_bytes_, hierarchy_.stripes, index);
    return {block.offset + stripe.offset, stripe.bytes};
  }

  // Sends this rank's contributions to the other delegates of its host.
  void give(Range block) {
    for (int index = 0; index < hierarchy_.stripes; ++index)
      for (const Range segment : segments_of(stripe(block, index), segment_bytes_))
        if (index != hierarchy_.index)
          program_.send(hierarchy_.locals()[index], {kOutput, segment.offset}, segment.bytes);
  }

  // Adds what the other locals give to this delegate's stripe. Returns the steps after which the output holds the sum.
  std::vector<std::uint32_t> add_locals(Slots& slots, Range mine) {
    std::vector<std::uint32_t> sums;
    for (const Range segment : segments_of(mine, segment_bytes_)) {
      std::vector<std::uint32_t> before;
      for (int peer : peers_) {
        const Slots::Slot slot = slots.take();
        before.push_back(program_.receive(peer, slot.place, segment.bytes, slot.after));
        before = {program_.reduce({kOutput, segment.offset}, slot.place, segment.bytes, before, false)};
        slots.release(slot, before.front());
      }
      sums.insert(sums.end(), before.begin(), before.end());
    }
    return sums;
  }

  void hand_out(const std::vector<RingAllReducer::Result>& results) {
    for (const auto& [segment, step] : results)
      for (int peer : peers_) program_.send(peer, {kOutput, segment.offset}, segment.bytes, {step});
  }

  // Receives the results of the other stripes, in the order in which their delegates get them. What stood there has
  // reached the delegate before.
  void get(Range block) {
    for (int index = 0; index < hierarchy_.stripes; ++index) {
      if (index == hierarchy_.index) continue;
      const Range range = stripe(block, index);
      const int hosts = static_cast<int>(hierarchy_.hosts.size());
      for (int round = 0; round < hosts; ++round) {
        Range shard = shard_of(range.bytes, element_bytes_, hosts, wrap(hierarchy_.host + 1 - round, hosts));
        shard.offset += range.offset;
        for (const Range segment : segments_of(shard, segment_bytes_))
          program_.receive(hierarchy_.locals()[index], {kOutput, segment.offset}, segment.bytes);
      }
    }
  }

  const Hierarchy hierarchy_;
  const std::vector<int> peers_;
  const std::size_t element_bytes_;
  const std::vector<Range> blocks_;
  const std::size_t segment_bytes_;
  Program program_;
};

}  // namespace

double hierarchical_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs) {
  const LinkCosts between = between_link(costs), inside = inside_link(costs);
  const int hosts = static_cast<int>(ranks_by_host(topology).size()), peers = most_locals(topology) - 1;
  const std::size_t shard_bytes = shard_of(message_bytes, 1, hosts, 0).bytes;
  const std::size_t block = std::min(block_size(message_bytes), message_bytes);
  const double before = peers * (inside.message_s(block) + inside.reduce_s(block)),
               after = peers * inside.message_s(block);
  return before + ring_seconds(hosts - 1, shard_bytes, true, between, between) +
         ring_seconds(hosts - 1, shard_bytes, false, between, between) + after;
}

Program hierarchical_all_reduce(const Topology& topology, int rank, std::size_t message_bytes,
                                std::size_t element_bytes) {
  if (message_bytes == 0) return {};
  return AllReduce(topology, rank, message_bytes, element_bytes).run();
}

}  // namespace merak
