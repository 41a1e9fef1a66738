#include "collectives/direct_all_reduce.h"

#include "collectives/cut.h"
#include "collectives/direct_all_gather.h"
#include "collectives/direct_reduce_scatter.h"

namespace merak {

double direct_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs) {
  const std::size_t shard_bytes = shard_of(message_bytes, 1, topology.size(), 0).bytes;
  return direct_reduce_scatter_seconds(topology, shard_bytes, costs) +
         direct_all_gather_seconds(topology, shard_bytes, costs);
}

Program direct_all_reduce(int rank, int size, std::size_t message_bytes, std::size_t element_bytes) {
  const auto shard = [&](int r) { return shard_of(message_bytes, element_bytes, size, r); };
  const auto place = [](Range range) { return Place{kOutput, range.offset}; };
  const Range own = shard(rank);
  Program program;
  program.steps.reserve(5 * static_cast<std::size_t>(size));

  for (int distance = 1; distance < size; ++distance) {
    const int to = wrap(rank + distance, size);
    if (shard(to).bytes > 0) program.send(to, place(shard(to)), shard(to).bytes);
  }
  std::vector<std::uint32_t> summed;
  const int landing = own.bytes > 0 && size > 1 ? program.add_scratch((size - 1) * own.bytes) : kScratch;
  for (int distance = 1; distance < size && own.bytes > 0; ++distance) {
    const Place landed{landing, (distance - 1) * own.bytes};
    std::vector<std::uint32_t> after = summed;
    after.push_back(program.receive(wrap(rank - distance, size), landed, own.bytes));
    summed = {program.reduce(place(own), landed, own.bytes, after, distance == size - 1)};
  }
  for (int distance = 1; distance < size; ++distance) {
    const int to = wrap(rank + distance, size), from = wrap(rank - distance, size);
    if (own.bytes > 0) program.send(to, place(own), own.bytes, summed);
    // No need to wait for the send of what stood there: the sum cannot come before its owner has it.
    if (shard(from).bytes > 0) program.receive(from, place(shard(from)), shard(from).bytes);
  }
  return program;
}

}  // namespace merak
