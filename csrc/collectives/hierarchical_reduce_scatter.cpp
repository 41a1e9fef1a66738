#include "collectives/hierarchical_reduce_scatter.h"

#include <algorithm>

#include "collectives/cut.h"
#include "collectives/hierarchical_all_gather.h"
#include "collectives/hierarchy.h"
#include "collectives/slots.h"

namespace merak {
namespace {

constexpr std::size_t kSegmentsOfLap = 4, kRoundsHeld = 3;

class ReduceScatter {
 public:
  ReduceScatter(const Topology& topology, int rank, std::size_t shard_bytes, std::size_t element_bytes)
      : hierarchy_(topology, rank),
        peers_(hierarchy_.peers()),
        rank_(rank),
        hosts_(static_cast<int>(hierarchy_.hosts.size())),
        shard_bytes_(shard_bytes),
        segments_(segments_of({0, shard_bytes}, ring_segment_bytes(shard_bytes, element_bytes))),
        bundle_((most_locals(topology) + hierarchy_.stripes - 1) / hierarchy_.stripes),
        sums_(program_, segments_.front().bytes, is_delegate() * segments_.size() * bundle_ * hosts_,
              kSegmentsOfLap * bundle_ * kRoundsHeld),
        given_(program_, segments_.front().bytes, is_delegate() * peers_.size() * segments_.size() * bundle_ * hosts_) {
  }

  Program run() {
    for (std::size_t first = 0; first < segments_.size(); first += kSegmentsOfLap)
      lap({segments_.begin() + first, segments_.begin() + std::min(first + kSegmentsOfLap, segments_.size())});
    return std::move(program_);
  }

 private:
  struct Sum {
    Place place;
    std::vector<std::uint32_t> after;  // the step that made it
    Slots::Slot slot;
  };

  std::size_t is_delegate() const { return hierarchy_.is_delegate() ? 1 : 0; }

  void lap(const std::vector<Range>& segments) {
    std::vector<Sum> leaving;
    for (int round = 0; round < hosts_; ++round) {
      const int host = wrap(hierarchy_.host - round - 1, hosts_);
      for (int stripe = 0; stripe < hierarchy_.stripes; ++stripe)
        if (stripe != hierarchy_.index) give(host, stripe, segments);
      if (hierarchy_.is_delegate()) leaving = add_bundle(host, round, segments, leaving);
    }
    get(segments);
  }

  void give(int host, int stripe, const std::vector<Range>& segments) {
    for (int owner : hierarchy_.served(host, stripe))
      for (const Range segment : segments)
        program_.send(hierarchy_.locals()[stripe], contribution(owner, segment), segment.bytes);
  }

  // One round of this delegate's stripe: the sums made in the last one leave, those of a host's bundle are made.
  std::vector<Sum> add_bundle(int host, int round, const std::vector<Range>& segments,
                              const std::vector<Sum>& leaving) {
    for (std::size_t i = 0; i < leaving.size(); ++i)
      send_sum(hierarchy_.ring().next(), leaving[i], segments[i % segments.size()].bytes);
    std::vector<Sum> made;
    for (int owner : hierarchy_.served(host, hierarchy_.index))
      for (const Range segment : segments) {
        Sum sum = start_sum(owner, round, segment);
        add_locals(sum, round == hosts_ - 1, segment);
        if (round < hosts_ - 1)
          made.push_back(sum);
        else if (owner != rank_)
          send_sum(owner, sum, segment.bytes);
      }
    return made;
  }

  void send_sum(int to, const Sum& sum, std::size_t bytes) {
    sums_.release(sum.slot, program_.send(to, sum.place, bytes, sum.after));
  }

  // This rank's contribution and, but in the first round, the sum that comes around the ring.
  Sum start_sum(int owner, int round, Range segment) {
    Sum sum;
    sum.place = {kOutput, segment.offset};
    if (owner != rank_) sum.slot = sums_.take(), sum.place = sum.slot.place;
    const bool completes = round == hosts_ - 1 && peers_.empty();
    if (round == 0) {
      sum.after = {program_.copy(sum.place, contribution(owner, segment), segment.bytes, sum.slot.after)};
    } else {
      sum.after = {program_.receive(hierarchy_.ring().previous(), sum.place, segment.bytes, sum.slot.after)};
      sum.after = {program_.reduce(sum.place, contribution(owner, segment), segment.bytes, sum.after, completes)};
    }
    return sum;
  }

  void add_locals(Sum& sum, bool is_last_round, Range segment) {
    for (int peer : peers_) {
      const Slots::Slot slot = given_.take();
      sum.after.push_back(program_.receive(peer, slot.place, segment.bytes, slot.after));
      const bool completes = is_last_round && peer == peers_.back();
      sum.after = {program_.reduce(sum.place, slot.place, segment.bytes, sum.after, completes)};
      given_.release(slot, sum.after.front());
    }
  }

  // Receives this rank's shard, where another delegate makes it.
  void get(const std::vector<Range>& segments) {
    const int stripe = hierarchy_.index % hierarchy_.stripes;
    if (stripe == hierarchy_.index) return;
    for (const Range segment : segments)
      program_.receive(hierarchy_.locals()[stripe], {kOutput, segment.offset}, segment.bytes);
  }

  Place contribution(int owner, Range segment) const {
    return {kInput, static_cast<std::size_t>(owner) * shard_bytes_ + segment.offset};
  }

  const Hierarchy hierarchy_;
  const std::vector<int> peers_;
  const int rank_, hosts_;
  const std::size_t shard_bytes_;
  const std::vector<Range> segments_;
  const std::size_t bundle_;  // the most shards of one
  Program program_;
  Slots sums_, given_;  // in the making; contributions of the other locals
};

}  // namespace

double hierarchical_reduce_scatter_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs) {
  const LinkCosts between = between_link(costs), inside = inside_link(costs);
  const int hosts = static_cast<int>(ranks_by_host(topology).size()), locals = most_locals(topology);
  const std::size_t segment = std::min(shard_bytes, ring_segment_bytes(shard_bytes, 1));
  const double pipeline = (locals - 1) * (inside.message_s(segment) + inside.reduce_s(segment)) +
                          ring_seconds(hosts - 1, locals * shard_bytes, true, between, between) +
                          inside.message_s(segment);
  return std::max(pipeline, hierarchical_messages(hosts, locals, shard_bytes) * costs.per_message_s);
}

Program hierarchical_reduce_scatter(const Topology& topology, int rank, std::size_t shard_bytes,
                                    std::size_t element_bytes) {
  if (shard_bytes == 0) return {};
  return ReduceScatter(topology, rank, shard_bytes, element_bytes).run();
}

}  // namespace merak
