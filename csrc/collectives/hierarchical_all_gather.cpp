#include "collectives/hierarchical_all_gather.h"

#include <algorithm>

#include "collectives/cut.h"
#include "collectives/hierarchy.h"

namespace merak {
namespace {

class AllGather {
 public:
  AllGather(const Topology& topology, int rank, std::size_t shard_bytes, bool in_place)
      : hierarchy_(topology, rank),
        peers_(hierarchy_.peers()),
        rank_(rank),
        shard_bytes_(shard_bytes),
        in_place_(in_place),
        segments_(segments_of({0, shard_bytes}, ring_segment_bytes(shard_bytes, 1))),
        arrived_(topology.host_of.size()) {}

  Program run() {
    exchange_with_locals();
    const int hosts = static_cast<int>(hierarchy_.hosts.size());
    for (int round = 0; round < hosts - 1; ++round) {
      const int leaving = wrap(hierarchy_.host - round, hosts), coming = wrap(hierarchy_.host - round - 1, hosts);
      if (hierarchy_.is_delegate()) go_around(leaving, coming);
      for (int stripe = 0; stripe < hierarchy_.stripes; ++stripe)
        if (stripe != hierarchy_.index) get(coming, stripe);
    }
    if (!in_place_) copy_in_steps(program_, place_of(rank_, 0), {kInput, 0}, shard_bytes_);
    return std::move(program_);
  }

 private:
  Place place_of(int owner, std::size_t offset) const {
    return {kOutput, static_cast<std::size_t>(owner) * shard_bytes_ + offset};
  }

  void exchange_with_locals() {
    for (const auto [offset, bytes] : segments_) {
      for (int peer : peers_) program_.send(peer, in_place_ ? place_of(rank_, offset) : Place{kInput, offset}, bytes);
      for (int peer : peers_) arrived_[peer].push_back(program_.receive(peer, place_of(peer, offset), bytes));
    }
  }

  // One round of this delegate's stripe: passes on one host's bundle, receives and hands out another's.
  void go_around(int leaving, int coming) {
    const Ring ring = hierarchy_.ring();
    for (int owner : hierarchy_.served(leaving, hierarchy_.index))
      for (std::size_t i = 0; i < segments_.size(); ++i) {
        const bool own = owner == rank_ && !in_place_;
        const Place from = own ? Place{kInput, segments_[i].offset} : place_of(owner, segments_[i].offset);
        program_.send(ring.next(), from, segments_[i].bytes, arrival_of(owner, i));
      }
    for (int owner : hierarchy_.served(coming, hierarchy_.index))
      for (const auto [offset, bytes] : segments_) {
        arrived_[owner].push_back(program_.receive(ring.previous(), place_of(owner, offset), bytes));
        for (int peer : peers_) program_.send(peer, place_of(owner, offset), bytes, {arrived_[owner].back()});
      }
  }

  std::vector<std::uint32_t> arrival_of(int owner, std::size_t segment) const {
    if (owner == rank_) return {};
    return {arrived_[owner][segment]};
  }

  // Receives a host's bundle from the delegate of its stripe here.
  void get(int host, int stripe) {
    for (int owner : hierarchy_.served(host, stripe))
      for (const auto [offset, bytes] : segments_)
        program_.receive(hierarchy_.locals()[stripe], place_of(owner, offset), bytes);
  }

  const Hierarchy hierarchy_;
  const std::vector<int> peers_;
  const int rank_;
  const std::size_t shard_bytes_;
  const bool in_place_;
  const std::vector<Range> segments_;
  std::vector<std::vector<std::uint32_t>> arrived_;  // by owner and segment: the step that received it
  Program program_;
};

}  // namespace

double hierarchical_messages(int hosts, int locals, std::size_t shard_bytes) {
  const double segments = static_cast<double>(segments_of({0, shard_bytes}, ring_segment_bytes(shard_bytes, 1)).size());
  return segments * 2 * ((locals - 1) + (hosts - 1) * locals);
}

double hierarchical_all_gather_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs) {
  const LinkCosts between = between_link(costs), inside = inside_link(costs);
  const int hosts = static_cast<int>(ranks_by_host(topology).size()), locals = most_locals(topology);
  const std::size_t segment = std::min(shard_bytes, ring_segment_bytes(shard_bytes, 1));
  const double pipeline = inside.message_s(segment) +
                          ring_seconds(hosts - 1, locals * shard_bytes, false, between, between) +
                          inside.message_s(segment);
  return std::max(pipeline, hierarchical_messages(hosts, locals, shard_bytes) * costs.per_message_s);
}

Program hierarchical_all_gather(const Topology& topology, int rank, std::size_t shard_bytes, bool in_place) {
  return AllGather(topology, rank, shard_bytes, in_place).run();
}

}  // namespace merak
