#include "resharding/programs.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <utility>

#include "resharding/local_tensors.h"
#include "resharding/staging.h"
#include "resharding/strided_parts.h"

namespace merak {
namespace {

using Steps = std::vector<std::uint32_t>;

constexpr std::size_t kLargestCopy = 512 * 1024;  // everything else waits for a copy on the engine's thread
static_assert(kLeastStagingBytes == Staging::kKinds * Staging::kFewestSlots * kPayloadUnit);

// What a rank has to do in a transfer. Ranks: -1 for none.
struct Part {
  bool in_chain = false;  // that reduces
  int previous = -1, next = -1;
  bool sends = false;  // it is where the hops begin
  int parent = -1;
  std::vector<int> children;

  bool is_none() const { return !in_chain && !sends && parent < 0; }
};

Part part_of(const Relay& relay, int rank) {
  Part part;
  const std::vector<int>& chain = relay.reduce_chain;
  const auto at = std::find(chain.begin(), chain.end(), rank);
  part.in_chain = at != chain.end() && chain.size() > 1;
  if (part.in_chain && at != chain.begin()) part.previous = *(at - 1);
  if (part.in_chain && at + 1 != chain.end()) part.next = *(at + 1);
  part.sends = relay.sender() == rank;
  for (Hop hop : relay.hops) {
    if (hop.to == rank) part.parent = hop.from;
    if (hop.from == rank) part.children.push_back(hop.to);
  }
  return part;
}

// Where a segment is, and after which steps.
struct Located {
  Place place;
  Steps after;
};

class Builder {
 public:
  Builder(const ReshardPlan& plan, const MoveBatch& batch, const std::vector<int>& host_of, int rank, std::size_t cap)
      : plan_(plan),
        batch_(batch),
        host_of_(host_of),
        rank_(rank),
        cap_(cap),
        source_(source_tensors(batch, rank)),
        target_(target_tensors(batch, rank)) {}

  Program run() {
    build();
    return std::move(program_);
  }

  std::vector<Carried> carried() {
    build();
    carried_.resize(program_.steps.size());
    return std::move(carried_);
  }

 private:
  struct Mine {
    const Transfer* transfer;
    Part part;
  };
  enum Kind { kPacked, kSums, kArrivals };

  void build() {
    find_parts();
    for (std::size_t i = 0; i < mine_.size(); ++i) carry_out(i);
    for (const Bucket& bucket : plan_.buckets)
      if (bucket.is_held_by(rank_) && wants(bucket)) copy_from_source(bucket);
  }

  void find_parts() {
    std::size_t slot_bytes = kPayloadUnit;
    for (const Transfer& transfer : plan_.transfers) {
      Part part = part_of(transfer.relay, rank_);
      if (part.is_none() || (part.sends && !part.in_chain && part.children.empty())) continue;
      slot_bytes = std::max(slot_bytes, std::min(segment_bytes(transfer), rounded_up(transfer.bytes())));
      mine_.push_back({&transfer, std::move(part)});
    }
    const auto in_flight = std::min<std::size_t>(mine_.size(), static_cast<std::size_t>(plan_.chosen.in_flight));
    const std::size_t slots = cap_ / Staging::kKinds / slot_bytes;  // of a kind
    const std::size_t windows =
        std::clamp<std::size_t>(slots / Staging::kFewestSlots, 1, std::max<std::size_t>(in_flight, 1));
    const std::size_t of_window = std::min(slots / windows, Staging::kMostSlots);
    for (std::size_t kind = 0; kind < Staging::kKinds; ++kind)
      staging_.emplace_back(program_, slot_bytes, windows, of_window);
  }

  static std::size_t rounded_up(std::size_t bytes) { return (bytes + kPayloadUnit - 1) / kPayloadUnit * kPayloadUnit; }

  std::size_t segment_bytes(const Transfer& transfer) const {
    const std::size_t most = cap_ / (Staging::kKinds * Staging::kFewestSlots) / kPayloadUnit * kPayloadUnit;
    return std::min(transfer.segment_bytes, most);
  }

  bool wants(const Bucket& bucket) const {
    return std::find(bucket.receivers.begin(), bucket.receivers.end(), rank_) != bucket.receivers.end();
  }

  bool is_outside(int peer) const { return host_of_[peer] != host_of_[rank_]; }

  // Transfers ---------------------------------------------------------------------------------------------------------

  void carry_out(std::size_t i) {
    const auto& [transfer, part] = mine_[i];
    transfer_ = transfer, part_ = &part, number_ = i, last_sends_.clear(), last_receives_.clear();
    const std::size_t step = segment_bytes(*transfer);
    for (std::size_t begin = transfer->begin; begin < transfer->end; begin += step)
      carry_segment(begin, std::min(begin + step, transfer->end));
    if (!last_sends_.empty()) left_.push_back(last_sends_);
    if (!last_receives_.empty()) come_.push_back(last_receives_);
  }

  void carry_segment(std::size_t begin, std::size_t end) {
    last_sends_.clear(), last_receives_.clear();
    slices_ = slices_of(batch_, bucket(), begin, end);
    bytes_ = end - begin, segment_ = (begin - transfer_->begin) / segment_bytes(*transfer_);
    if (part_->in_chain && part_->next >= 0) give_to_chain();
    if (part_->in_chain && part_->next < 0) end_chain();
    if (part_->sends && !part_->in_chain) give_own();
    if (part_->parent >= 0) take_from_parent();
    carried_.resize(program_.steps.size(),
                    {static_cast<std::uint32_t>(transfer_ - plan_.transfers.data()), begin, end});
  }

  const Bucket& bucket() const { return plan_.buckets[transfer_->bucket]; }

  void give_to_chain() {
    if (part_->previous < 0) return give(own(), {part_->next});
    const Staging::Slot slot = take(kSums);
    const Steps sum = add_own(slot.place, receive(part_->previous, slot.place, slot.after), false);
    staging_[kSums].release(slot, {send(part_->next, slot.place, sum)});
  }

  void end_chain() {
    arrive(kSums, part_->previous, [&](Place place, std::uint32_t come) { return add_own(place, come, true); });
  }

  void take_from_parent() {
    arrive(kArrivals, part_->parent, [](Place, std::uint32_t come) { return Steps{come}; });
  }

  void give_own() { give(own(), part_->children); }

  // Receives into the target where that can be, else into a slot; does what has to be done with it; passes it on.
  template <class Finish>
  void arrive(Kind kind, int from, Finish finish) {
    const bool is_wanted = wants(bucket());
    if (const std::optional<Place> place = is_wanted ? contiguous(target_, kOutput) : std::nullopt) {
      const Steps done = finish(*place, receive(from, *place, {}));
      for (int child : part_->children) send(child, *place, done);
      return;
    }
    const Staging::Slot slot = take(kind);
    const Steps done = finish(slot.place, receive(from, slot.place, slot.after));
    Steps uses;
    for (int child : part_->children) uses.push_back(send(child, slot.place, done));
    if (is_wanted) unpack(slot.place, done, uses);
    staging_[kind].release(slot, uses.empty() ? done : uses);
  }

  // Own values --------------------------------------------------------------------------------------------------------

  struct Own {
    Located at;
    std::optional<Staging::Slot> slot;  // if it was packed
  };

  Own own() {
    if (const std::optional<Place> place = contiguous(source_, kInput)) return {{*place, {}}, std::nullopt};
    const Staging::Slot slot = take(kPacked);
    Steps packed;
    std::size_t offset = 0;
    for (const Slice& slice : slices_) {
      const Region unit = region(slice);
      copy_parts(strided_parts(unit, slice.begin, slice.end, unit, source_.regions[slice.unit.tensor], element(slice)),
                 {slot.place.buffer, slot.place.offset + offset - slice.begin * element(slice)},
                 begin_of(source_, slice, kInput), slot.after, packed);
      offset += bytes_of(slice);
    }
    return {{slot.place, std::move(packed)}, slot};
  }

  void give(const Own& own, const std::vector<int>& to) {
    Steps sent;
    for (int peer : to) sent.push_back(send(peer, own.at.place, own.at.after));
    if (own.slot) staging_[kPacked].release(*own.slot, sent);
  }

  Steps add_own(Place sum, std::uint32_t come, bool is_last) {
    const Own mine = own();
    Steps after = mine.at.after;
    after.push_back(come);
    const std::uint32_t added =
        program_.reduce(sum, mine.at.place, bytes_, std::move(after), is_last && bucket().divisor > 1);
    if (mine.slot) staging_[kPacked].release(*mine.slot, {added});
    return {added};
  }

  void unpack(Place from, const Steps& after, Steps& uses) {
    std::size_t offset = 0;
    for (const Slice& slice : slices_) {
      const Region unit = region(slice);
      copy_parts(strided_parts(unit, slice.begin, slice.end, target_.regions[slice.unit.tensor], unit, element(slice)),
                 begin_of(target_, slice, kOutput), {from.buffer, from.offset + offset - slice.begin * element(slice)},
                 after, uses);
      offset += bytes_of(slice);
    }
  }

  void copy_from_source(const Bucket& bucket) {
    for (std::size_t begin = 0; begin < bucket.bytes; begin += kLargestCopy)
      for (const Slice& slice : slices_of(batch_, bucket, begin, std::min(begin + kLargestCopy, bucket.bytes))) {
        Steps done;
        copy_parts(strided_parts(region(slice), slice.begin, slice.end, target_.regions[slice.unit.tensor],
                                 source_.regions[slice.unit.tensor], element(slice)),
                   begin_of(target_, slice, kOutput), begin_of(source_, slice, kInput), {}, done);
      }
  }

  // Where the segment is one run of a tensor: messages, also on devices, and sums need no more.
  std::optional<Place> contiguous(const LocalTensors& tensors, int buffer) const {
    if (slices_.size() != 1) return std::nullopt;
    const Slice& slice = slices_.front();
    const Region unit = region(slice), &whole = tensors.regions[slice.unit.tensor];
    const std::vector<StridedPart> parts = strided_parts(unit, slice.begin, slice.end, unit, whole, element(slice));
    if (parts.size() != 1 || !parts.front().copy.is_contiguous()) return std::nullopt;
    return Place{buffer, tensors.offsets[slice.unit.tensor] + parts.front().from};
  }

  // Offsets wrap around: that of a packed unit's begin may lie before that of its buffer.
  void copy_parts(const std::vector<StridedPart>& parts, Place at, Place from, const Steps& after, Steps& done) {
    for (const StridedPart& part : parts) {
      const Place to = {at.buffer, at.offset + part.at}, source = {from.buffer, from.offset + part.from};
      done.push_back(part.copy.is_contiguous() ? program_.copy(to, source, part.copy.bytes(), after)
                                               : program_.copy_strided(to, source, part.copy, after));
    }
  }

  Region region(const Slice& slice) const {
    return batch_.units_of_tensor(slice.unit.tensor).region(batch_.unit(slice.unit));
  }
  std::size_t element(const Slice& slice) const { return element_bytes(batch_.moves[slice.unit.tensor].dtype); }
  std::size_t bytes_of(const Slice& slice) const { return (slice.end - slice.begin) * element(slice); }
  static Place begin_of(const LocalTensors& tensors, const Slice& slice, int buffer) {
    return {buffer, tensors.offsets[slice.unit.tensor]};
  }

  // Messages and memory -----------------------------------------------------------------------------------------------

  Staging::Slot take(Kind kind) { return staging_[kind].take(number_, segment_); }

  std::uint32_t send(int peer, Place at, Steps after) {
    if (is_outside(peer)) add_in_flight(left_, after);
    const std::uint32_t step = program_.send(peer, at, bytes_, std::move(after));
    if (is_outside(peer)) last_sends_.push_back(step);
    return step;
  }

  std::uint32_t receive(int peer, Place at, Steps after) {
    if (is_outside(peer)) add_in_flight(come_, after);
    const std::uint32_t step = program_.receive(peer, at, bytes_, std::move(after));
    if (is_outside(peer)) last_receives_.push_back(step);
    return step;
  }

  // `ended`: what ended the transfers before this one, in one direction.
  void add_in_flight(const std::vector<Steps>& ended, Steps& after) const {
    const auto in_flight = static_cast<std::size_t>(plan_.chosen.in_flight);
    if (ended.size() < in_flight) return;
    const Steps& before = ended[ended.size() - in_flight];
    after.insert(after.end(), before.begin(), before.end());
  }

  const ReshardPlan& plan_;
  const MoveBatch& batch_;
  const std::vector<int>& host_of_;
  const int rank_;
  const std::size_t cap_;
  const LocalTensors source_, target_;
  Program program_;
  std::vector<Staging> staging_;  // by kind
  std::vector<Mine> mine_;
  std::vector<Carried> carried_;    // by step
  std::vector<Steps> left_, come_;  // by transfer to or from other hosts: its last messages

  // The transfer, and the segment of it, that is being carried out.
  const Transfer* transfer_ = nullptr;
  const Part* part_ = nullptr;
  std::size_t number_ = 0, segment_ = 0, bytes_ = 0;
  std::vector<Slice> slices_;
  Steps last_sends_, last_receives_;
};

}  // namespace

void check_staging(std::size_t most_staging_bytes) {
  if (most_staging_bytes < kLeastStagingBytes)
    throw std::invalid_argument("resharding with at most " + std::to_string(most_staging_bytes) +
                                " bytes of staging memory is not possible: give it " +
                                std::to_string(kLeastStagingBytes) + " bytes at least");
}

Program reshard_program(const ReshardPlan& plan, const MoveBatch& batch, const std::vector<int>& host_of, int rank,
                        std::size_t most_staging_bytes) {
  check_staging(most_staging_bytes);
  return Builder(plan, batch, host_of, rank, most_staging_bytes).run();
}

std::vector<Carried> carried_by_steps(const ReshardPlan& plan, const MoveBatch& batch, const std::vector<int>& host_of,
                                      int rank, std::size_t most_staging_bytes) {
  check_staging(most_staging_bytes);
  return Builder(plan, batch, host_of, rank, most_staging_bytes).carried();
}

std::optional<ReducedAs> reduced_as(const MoveBatch& batch) {
  std::optional<ReducedAs> found;
  for (std::size_t tensor = 0; tensor < batch.moves.size(); ++tensor) {
    const MoveUnits& move = batch.units_of_tensor(tensor);
    if (move.reduction == Reduction::kNone || move.units.empty()) continue;
    const ReducedAs one = {batch.moves[tensor].dtype, move.divisor > 1 ? Reduction::kAverage : move.reduction,
                           static_cast<int>(move.divisor)};
    if (!found ||
        (found->dtype == one.dtype && found->reduction == Reduction::kSum && one.reduction == Reduction::kAverage)) {
      found = one;
      continue;
    }
    const bool is_sum_beside_average =
        one.dtype == found->dtype && one.reduction == Reduction::kSum && found->reduction == Reduction::kAverage;
    if (one != *found && !is_sum_beside_average)
      throw std::invalid_argument("tensors that are reduced in different ways (" + std::string(name(found->dtype)) +
                                  " by " + name(found->reduction) + ", " + name(one.dtype) + " by " +
                                  name(one.reduction) + ", divided by " + std::to_string(found->divisor) + " and " +
                                  std::to_string(one.divisor) +
                                  ") cannot be moved together: move each kind in a batch of its own");
  }
  return found;
}

}  // namespace merak
