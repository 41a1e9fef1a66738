#include "collectives/ring_all_gather.h"

#include "collectives/cut.h"

namespace merak {

Program ring_all_gather(Ring ring, std::size_t shard_bytes, std::size_t segment_bytes, bool in_place) {
  const int size = ring.size();
  const auto place_of = [&](int position) {
    return Place{kOutput, static_cast<std::size_t>(ring.ranks[wrap(position, size)]) * shard_bytes};
  };
  const std::vector<Range> segments = segments_of({0, shard_bytes}, segment_bytes);
  Program program;
  program.steps.reserve(2 * segments.size() * ring.ranks.size());

  std::vector<std::vector<std::uint32_t>> arrived(segments.size());  // by segment, of the shard to be passed on
  for (int round = 0; round < size - 1; ++round) {
    Place shard = place_of(ring.position - round);
    const Place coming = place_of(ring.position - round - 1);
    if (round == 0 && !in_place) shard = {kInput, 0};
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const auto [offset, bytes] = segments[i];
      program.send(ring.next(), {shard.buffer, shard.offset + offset}, bytes, arrived[i]);
      arrived[i] = {program.receive(ring.previous(), {coming.buffer, coming.offset + offset}, bytes)};
    }
  }
  if (!in_place) copy_in_steps(program, place_of(ring.position), {kInput, 0}, shard_bytes);
  return program;
}

}  // namespace merak
