#include "collectives/doubling_all_gather.h"

#include <algorithm>
#include <bit>

#include "collectives/cut.h"

namespace merak {
namespace {

// The shards of `count` ranks from `first` on, as runs of the output.
std::vector<Range> runs(int first, int count, int size, std::size_t shard_bytes) {
  const auto range = [&](int begin, int length) {
    return Range{static_cast<std::size_t>(begin) * shard_bytes, static_cast<std::size_t>(length) * shard_bytes};
  };
  const int before_end = std::min(count, size - first);
  std::vector<Range> runs = {range(first, before_end)};
  if (before_end < count) runs.push_back(range(0, count - before_end));
  return runs;
}

}  // namespace

double doubling_all_gather_seconds(const Topology& topology, std::size_t shard_bytes, const Costs& costs) {
  if (topology.size() == 1) return 0;
  const LinkCosts link = shared_link(topology, costs);
  const unsigned others = static_cast<unsigned>(topology.size() - 1);
  return std::bit_width(others) * link.message_s(0) + others * static_cast<double>(shard_bytes) * link.seconds_per_byte;
}

Program doubling_all_gather(int rank, int size, std::size_t shard_bytes, bool in_place) {
  Program program;
  if (shard_bytes == 0) return program;
  const Place own{kOutput, static_cast<std::size_t>(rank) * shard_bytes};
  std::vector<std::uint32_t> have;  // the steps after which all that is to be sent stands in the output
  if (!in_place) {
    copy_in_steps(program, own, {kInput, 0}, shard_bytes);
    have.push_back(0);
  }
  for (int distance = 1; distance < size; distance *= 2) {
    const int count = std::min(distance, size - distance);
    const int to = wrap(rank - distance, size), from = wrap(rank + distance, size);
    for (const auto [offset, bytes] : runs(rank, count, size, shard_bytes))
      program.send(to, {kOutput, offset}, bytes, have);
    for (const auto [offset, bytes] : runs(from, count, size, shard_bytes))
      have.push_back(program.receive(from, {kOutput, offset}, bytes));
  }
  return program;
}

}  // namespace merak
