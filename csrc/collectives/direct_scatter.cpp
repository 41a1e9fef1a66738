#include "collectives/direct_scatter.h"

#include <algorithm>

#include "collectives/cut.h"

namespace merak {

double direct_scatter_seconds(const Topology& topology, int center, std::size_t shard_bytes, const Costs& costs) {
  const std::size_t others = topology.host_of.size() - 1;
  if (others == 0) return 0;
  const std::vector<int>& host = topology.host_of;
  const std::size_t here = static_cast<std::size_t>(std::count(host.begin(), host.end(), host[center])) - 1;
  const LinkCosts link = here == others ? inside_link(costs) : between_link(costs);
  const double wire = static_cast<double>(here * shard_bytes) * costs.seconds_per_byte_inside +
                      static_cast<double>((others - here) * shard_bytes) * costs.seconds_per_byte;
  return link.message_s(0) + std::max(wire, static_cast<double>(others - 1) * link.per_message_s);
}

Program direct_scatter(int rank, int size, int root, std::size_t shard_bytes, bool in_place) {
  const auto shard_for = [&](int r) { return Place{kInput, static_cast<std::size_t>(r) * shard_bytes}; };
  Program program;
  if (shard_bytes == 0) return program;
  if (rank != root) {
    program.receive(root, {kOutput, 0}, shard_bytes);
    return program;
  }
  for (int distance = 1; distance < size; ++distance) {
    const int to = wrap(root + distance, size);
    std::vector<std::uint32_t> after;
    if (distance > 2 && shard_bytes > kAtOnceBytes) after = {static_cast<std::uint32_t>(distance - 3)};
    program.send(to, shard_for(to), shard_bytes, after);
  }
  if (!in_place) copy_in_steps(program, {kOutput, 0}, shard_for(root), shard_bytes);
  return program;
}

}  // namespace merak
