#include "collectives/direct_reduce_scatter.h"

#include "collectives/cut.h"
#include "collectives/direct_all_gather.h"

namespace merak {

double direct_reduce_scatter_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs) {
  return direct_all_gather_seconds(topology, shard_bytes, costs) +
         (topology.size() - 1) * between_link(costs).reduce_s(shard_bytes);
}

Program direct_reduce_scatter(int rank, int size, std::size_t shard_bytes) {
  const auto shard_for = [&](int r) { return Place{kInput, static_cast<std::size_t>(r) * shard_bytes}; };
  const Place sum{kOutput, 0};
  Program program;
  if (shard_bytes == 0) return program;
  if (size == 1) {
    copy_in_steps(program, sum, shard_for(rank), shard_bytes);
    return program;
  }
  program.steps.reserve(3 * static_cast<std::size_t>(size));
  for (int distance = 1; distance < size; ++distance) {
    const int to = wrap(rank - distance, size);
    program.send(to, shard_for(to), shard_bytes);
  }
  std::uint32_t summed = program.receive(wrap(rank + 1, size), sum, shard_bytes);
  const int landing = size > 2 ? program.add_scratch((size - 2) * shard_bytes) : kScratch;
  for (int distance = 2; distance < size; ++distance) {
    const Place landed{landing, (distance - 2) * shard_bytes};
    const std::uint32_t arrival = program.receive(wrap(rank + distance, size), landed, shard_bytes);
    summed = program.reduce(sum, landed, shard_bytes, {summed, arrival}, false);
  }
  program.reduce(sum, shard_for(rank), shard_bytes, {summed}, true);
  return program;
}

}  // namespace merak
