#include "collectives/direct_all_gather.h"

#include <algorithm>

#include "collectives/cut.h"

namespace merak {

double direct_all_gather_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs) {
  if (topology.size() == 1) return 0;
  const LinkCosts link = shared_link(topology, costs);
  const std::size_t others = topology.host_of.size() - 1;
  return std::max(link.message_s(others * shard_bytes), 2 * static_cast<double>(others) * link.per_message_s);
}

Program direct_all_gather(int rank, int size, std::size_t shard_bytes, bool in_place) {
  const auto place_of = [&](int r) { return Place{kOutput, static_cast<std::size_t>(r) * shard_bytes}; };
  const Place own = in_place ? place_of(rank) : Place{kInput, 0};
  Program program;
  if (shard_bytes == 0) return program;
  program.steps.reserve(2 * static_cast<std::size_t>(size));
  for (int distance = 1; distance < size; ++distance) program.send(wrap(rank + distance, size), own, shard_bytes);
  for (int distance = 1; distance < size; ++distance) {
    const int from = wrap(rank - distance, size);
    program.receive(from, place_of(from), shard_bytes);
  }
  if (!in_place) copy_in_steps(program, place_of(rank), own, shard_bytes);
  return program;
}

}  // namespace merak
