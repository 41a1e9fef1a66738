#include "collectives/ring_reduce_scatter.h"

#include <algorithm>
#include <optional>

#include "collectives/cut.h"
#include "collectives/slots.h"

namespace merak {
namespace {

constexpr std::size_t kSegmentsOfLap = 8, kRoundsHeld = 3;

class ReduceScatter {
 public:
  ReduceScatter(Ring ring, std::size_t shard_bytes, std::size_t segment_bytes)
      : ring_(ring), shard_bytes_(shard_bytes), segments_(segments_of({0, shard_bytes}, segment_bytes)) {
    program_.steps.reserve(3 * segments_.size() * ring.ranks.size());
  }

  Program run() {
    Slots slots(program_, segments_.front().bytes, segments_.size() * (ring_.size() - 2), kSegmentsOfLap * kRoundsHeld);
    for (std::size_t first = 0; first < segments_.size(); first += kSegmentsOfLap)
      lap(slots, {segments_.begin() + first, segments_.begin() + std::min(first + kSegmentsOfLap, segments_.size())});
    return std::move(program_);
  }

 private:
  struct Sum {  // of what one segment has met so far
    Slots::Slot slot;
    std::uint32_t step;
  };

  void lap(Slots& slots, const std::vector<Range>& segments) {
    std::vector<std::optional<Sum>> sums(segments.size());
    for (int round = 0; round < ring_.size() - 1; ++round)
      for (std::size_t i = 0; i < segments.size(); ++i) {
        if (round == 0) program_.send(ring_.next(), contribution(ring_.position - 1, segments[i]), segments[i].bytes);
        if (round > 0) pass_on(slots, *sums[i], segments[i]);
        if (round < ring_.size() - 2) sums[i] = add(slots, ring_.position - round - 2, segments[i]);
        if (round == ring_.size() - 2) finish(segments[i]);
      }
  }

  void pass_on(Slots& slots, const Sum& sum, Range segment) {
    slots.release(sum.slot, program_.send(ring_.next(), sum.slot.place, segment.bytes, {sum.step}));
  }

  Sum add(Slots& slots, int position, Range segment) {
    const Slots::Slot slot = slots.take();
    const std::uint32_t arrival = program_.receive(ring_.previous(), slot.place, segment.bytes, slot.after);
    return {slot, program_.reduce(slot.place, contribution(position, segment), segment.bytes, {arrival}, false)};
  }

  void finish(Range segment) {
    const Place result{kOutput, segment.offset};
    const std::uint32_t arrival = program_.receive(ring_.previous(), result, segment.bytes);
    program_.reduce(result, contribution(ring_.position, segment), segment.bytes, {arrival}, true);
  }

  // This rank's contribution to the shard of the rank at `position`.
  Place contribution(int position, Range segment) const {
    const int owner = ring_.ranks[wrap(position, ring_.size())];
    return {kInput, static_cast<std::size_t>(owner) * shard_bytes_ + segment.offset};
  }

  const Ring ring_;
  const std::size_t shard_bytes_;
  const std::vector<Range> segments_;
  Program program_;
};

}  // namespace

Program ring_reduce_scatter(Ring ring, std::size_t shard_bytes, std::size_t segment_bytes) {
  Program program;
  if (shard_bytes == 0) return program;
  if (ring.size() == 1) {
    copy_in_steps(program, {kOutput, 0}, {kInput, 0}, shard_bytes);
    return program;
  }
  return ReduceScatter(ring, shard_bytes, segment_bytes).run();
}

}  // namespace merak
