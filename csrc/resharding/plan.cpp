#include "resharding/plan.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "resharding/balance.h"
#include "resharding/link_sharing.h"
#include "resharding/list_schedule.h"
#include "resharding/lower_bound.h"
#include "resharding/pricing.h"

namespace merak {
namespace {

constexpr int kWindows[] = {1, 2, 4, 8};
constexpr double kCloseEnough = 1.001;  // to the bound: no further plan is weighed
constexpr double kWorthwhile = 0.999;   // of what is known: less is no reason for more pieces
// Streams that share a link do not share it as evenly as the model has it: what 1, 2, 4 and 8 in flight took more than
// that, measured (docs/resharding.md).
constexpr double kCrowding[] = {1, 1.005, 1.01, 1.03};
constexpr double kPieceOfBound = 0.25;  // what a piece of a bucket that is cut takes at most
constexpr std::size_t kMostPieces = 64, kSmallestPiece = 64 * 1024;

// A part of a bucket's payload that goes as one, and the relays that could carry it.
struct Parcel {
  std::uint32_t bucket = 0;
  std::size_t begin = 0, end = 0;
  std::vector<Relay> relays;

  std::size_t bytes() const { return end - begin; }
  bool operator==(const Parcel&) const = default;
};

// Cuts a payload into equal pieces between elements; fewer where it is small.
std::vector<Run> pieces_of(std::size_t bytes, std::size_t count) {
  const std::size_t wanted = std::max((bytes + count - 1) / count, std::min(bytes, kSmallestPiece));
  const std::size_t step = (wanted + kPayloadUnit - 1) / kPayloadUnit * kPayloadUnit;
  std::vector<Run> pieces;
  for (std::size_t begin = 0; begin < bytes; begin += step) pieces.push_back({begin, std::min(begin + step, bytes)});
  return pieces;
}

class Planner {
 public:
  Planner(std::vector<Bucket> buckets, const Network& network)
      : network_(network), bytes_per_s_(bandwidths_of(network)), bound_s_(lower_bound(buckets, network).seconds) {
    plan_.buckets = std::move(buckets);
    plan_.bound_s = bound_s_;
    for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b)
      for (Relay& relay : inside_relays(plan_.buckets[b], network_))
        inside_.push_back(transfer({b, 0, plan_.buckets[b].bytes, {}}, std::move(relay)));
  }

  ReshardPlan run() {
    for (bool cut : {false, true})
      for (PlanShape shape : {PlanShape::kPointToPoint, PlanShape::kChain, PlanShape::kStriped}) {
        if (best_ && best_->seconds <= bound_s_ * kCloseEnough) break;
        weigh(shape, cut);
      }
    plan_.chosen = *best_;
    return std::move(plan_);
  }

 private:
  void weigh(PlanShape shape, bool cut) {
    std::vector<Parcel> parcels;
    for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) add_parcels(parcels, b, shape, cut);
    if (is_known(parcels)) return;
    put_in_rounds(parcels);
    price_all(in_order(parcels), {.shape = shape, .cut = cut});
    if (!keep_balanced_relays(parcels)) return;
    put_in_rounds(parcels);
    price_all(in_order(parcels), {.shape = shape, .cut = cut, .balanced = true});
  }

  // In rounds, as a pairwise all_to_all: in round k the i-th of the sending hosts sends to the host k after the i-th of
  // the receiving ones, so every link carries one host's parcels in each direction. The first parcel of each pair of
  // hosts in all rounds, then the second in all, ... Where sizes differ, list scheduling does better.
  void put_in_rounds(std::vector<Parcel>& parcels) const {
    std::map<int, int> senders, receivers;  // host -> which one it is
    for (const Parcel& parcel : parcels) senders[from_host(parcel)], receivers[to_host(parcel)];
    for (std::map<int, int>* hosts : {&senders, &receivers}) {
      int next = 0;
      for (auto& [host, number] : *hosts) number = next++;
    }
    const int rounds = static_cast<int>(std::max(senders.size(), receivers.size()));
    std::map<std::pair<int, int>, int> before;             // (from, to) -> parcels so far
    std::vector<std::tuple<int, int, std::size_t>> order;  // which of its pair, round, parcel
    for (std::size_t p = 0; p < parcels.size(); ++p) {
      const int from = from_host(parcels[p]), to = to_host(parcels[p]);
      order.emplace_back(before[{from, to}]++, (receivers[to] - senders[from] + rounds) % rounds, p);
    }
    std::sort(order.begin(), order.end());
    std::vector<Parcel> sorted;
    for (const auto& [which, round, p] : order) sorted.push_back(std::move(parcels[p]));
    parcels = std::move(sorted);
  }

  int from_host(const Parcel& parcel) const { return network_.host_of[parcel.relays.front().sender()]; }
  int to_host(const Parcel& parcel) const {
    const Relay& relay = parcel.relays.front();
    return network_.host_of[relay.hops.empty() ? relay.sender() : relay.hops.front().to];
  }

  void price_all(std::vector<Transfer> transfers, Candidate candidate) {
    transfers.insert(transfers.end(), inside_.begin(), inside_.end());
    for (int window : kWindows) {
      candidate.in_flight = window;
      price(transfers, candidate);
      if (transfers.size() <= static_cast<std::size_t>(window)) break;
    }
  }

  // List scheduling takes a link as busy with one transfer, so it cannot tell who should send when many are under way.
  // False if there is nothing to choose.
  bool keep_balanced_relays(std::vector<Parcel>& parcels) const {
    bool is_choice = false;
    std::vector<std::vector<Flow>> ways;
    for (const Parcel& parcel : parcels) {
      std::vector<Flow>& flows = ways.emplace_back();
      for (const Relay& relay : parcel.relays) flows.push_back(flow_of(relay, parcel.bytes(), network_));
      is_choice = is_choice || flows.size() > 1;
    }
    if (!is_choice) return false;
    const std::vector<std::uint32_t> way = balanced_ways(ways, bytes_per_s_);
    for (std::size_t p = 0; p < parcels.size(); ++p) {
      Relay relay = std::move(parcels[p].relays[way[p]]);
      parcels[p].relays = {std::move(relay)};
    }
    return true;
  }

  void add_parcels(std::vector<Parcel>& parcels, std::uint32_t b, PlanShape shape, bool cut) const {
    const Bucket& bucket = plan_.buckets[b];
    const std::vector<int> outside = receivers_of(bucket, network_).outside;
    if (outside.empty()) return;
    const std::size_t stripes = shape == PlanShape::kStriped ? most_on_a_host(bucket, network_) : 1;
    const std::vector<Run> pieces = pieces_of(bucket.bytes, stripes * (cut ? cuts_of(bucket) : 1));
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      if (shape == PlanShape::kPointToPoint && !bucket.is_reduced())
        for (int rank : outside)
          parcels.push_back({b, pieces[i].begin, pieces[i].end, relays_to_one(bucket, network_, rank, b + i)});
      else
        parcels.push_back({b, pieces[i].begin, pieces[i].end, chain_relays(bucket, network_, b + i)});
    }
  }

  // Into how many pieces a bucket is worth cutting: one, if it has only one sender.
  std::size_t cuts_of(const Bucket& bucket) const {
    const std::vector<Relay> relays = chain_relays(bucket, network_, 0);
    if (relays.size() == 1) return 1;
    const double alone = seconds_alone(flow_of(relays.front(), bucket.bytes, network_), bytes_per_s_);
    if (bound_s_ <= 0 || alone >= kMostPieces * kPieceOfBound * bound_s_) return kMostPieces;
    return std::max<std::size_t>(1, static_cast<std::size_t>(alone / (kPieceOfBound * bound_s_)));
  }

  std::vector<Transfer> in_order(const std::vector<Parcel>& parcels) const {
    std::vector<ListJob> jobs;
    for (const Parcel& parcel : parcels) {
      ListJob& job = jobs.emplace_back();
      for (const Relay& relay : parcel.relays) job.push_back(option_of(flow_of(relay, parcel.bytes(), network_)));
    }
    const ListSchedule schedule = list_schedule(jobs, bound_s_);
    std::vector<Transfer> transfers;
    for (std::uint32_t p : schedule.order) {
      transfers.push_back(transfer(parcels[p], parcels[p].relays[schedule.option[p]]));
    }
    return transfers;
  }

  ListOption option_of(const Flow& flow) const {
    ListOption option{.seconds = seconds_alone(flow, bytes_per_s_), .resources = {}};
    for (const Use& use : flow.uses)
      if (use.resource < 2 * network_.hosts.size()) option.resources.push_back(static_cast<int>(use.resource));
    return option;
  }

  Transfer transfer(const Parcel& parcel, Relay relay) const {
    Transfer transfer{.bucket = parcel.bucket, .begin = parcel.begin, .end = parcel.end, .relay = std::move(relay)};
    transfer.segment_bytes = segment_bytes(transfer.relay, transfer.bytes(), network_);
    return transfer;
  }

  static double crowding(int in_flight) {
    return kCrowding[std::find(std::begin(kWindows), std::end(kWindows), in_flight) - std::begin(kWindows)];
  }

  // Shapes come out the same where every bucket has one receiver.
  bool is_known(const std::vector<Parcel>& parcels) {
    const bool known = std::find(weighed_.begin(), weighed_.end(), parcels) != weighed_.end();
    if (!known) weighed_.push_back(parcels);
    return known;
  }

  void price(const std::vector<Transfer>& transfers, Candidate candidate) {
    std::vector<Flow> flows;
    for (const Transfer& transfer : transfers) flows.push_back(flow_of(transfer.relay, transfer.bytes(), network_));
    const std::vector<Span> spans = share_links(flows, bytes_per_s_, candidate.in_flight);
    for (const Span& span : spans) candidate.seconds = std::max(candidate.seconds, span.end_s);
    plan_.candidates.push_back(candidate);
    const double weighed = candidate.seconds * crowding(candidate.in_flight);
    if (best_ && weighed >= best_->seconds * crowding(best_->in_flight) * kWorthwhile) return;
    best_ = candidate;
    plan_.transfers = transfers;
    for (std::size_t i = 0; i < spans.size(); ++i)
      plan_.transfers[i].start_s = spans[i].start_s, plan_.transfers[i].end_s = spans[i].end_s;
  }

  const Network& network_;
  const std::vector<double> bytes_per_s_;
  const double bound_s_;
  std::vector<Transfer> inside_;
  std::vector<std::vector<Parcel>> weighed_;
  std::optional<Candidate> best_;
  ReshardPlan plan_;
};

}  // namespace

const char* name(PlanShape shape) {
  constexpr const char* kNames[] = {"point to point", "chain", "striped"};
  return kNames[static_cast<std::size_t>(shape)];
}

ReshardPlan make_plan(const MoveBatch& batch, const Network& network) {
  return Planner(buckets_of(batch), network).run();
}

}  // namespace merak
