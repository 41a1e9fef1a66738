#include "collectives/pairwise_all_to_all.h"

#include <algorithm>
#include <numeric>

#include "collectives/cut.h"

namespace merak {
namespace {

std::vector<std::size_t> offsets_of(const std::vector<std::size_t>& bytes) {
  std::vector<std::size_t> offsets(bytes.size());
  std::exclusive_scan(bytes.begin(), bytes.end(), offsets.begin(), std::size_t{0});
  return offsets;
}

}  // namespace

double pairwise_all_to_all_seconds(const Topology& topology, std::size_t part_bytes, const Costs& costs) {
  if (topology.size() == 1) return 0;
  return (topology.size() - 1) * shared_link(topology, costs).message_s(part_bytes);
}

Program pairwise_all_to_all(int rank, const std::vector<std::size_t>& send_bytes,
                            const std::vector<std::size_t>& receive_bytes, AllToAllOrder order) {
  const int size = static_cast<int>(send_bytes.size());
  const std::vector<std::size_t> send_at = offsets_of(send_bytes), receive_at = offsets_of(receive_bytes);
  Program program;
  program.steps.reserve(2 * send_bytes.size());
  std::vector<std::uint32_t> round_before;
  for (int i = 1; i < size; ++i) {
    const int to = wrap(rank + i, size), from = wrap(rank - i, size);
    std::vector<std::uint32_t> round;
    if (send_bytes[to] > 0) round.push_back(program.send(to, {kInput, send_at[to]}, send_bytes[to], round_before));
    if (receive_bytes[from] > 0) {
      const std::uint32_t arrival = program.receive(from, {kOutput, receive_at[from]}, receive_bytes[from]);
      if (order == AllToAllOrder::kRounds) round.push_back(arrival);
    }
    if (order != AllToAllOrder::kAtOnce && !round.empty()) round_before = round;
  }
  copy_in_steps(program, {kOutput, receive_at[rank]}, {kInput, send_at[rank]}, send_bytes[rank]);
  return program;
}

}  // namespace merak
