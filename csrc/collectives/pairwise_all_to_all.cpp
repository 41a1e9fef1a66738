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

std::size_t longest(const std::vector<std::size_t>& bytes) { return *std::max_element(bytes.begin(), bytes.end()); }

// The bytes of the segment that begins at `at`; 0 past the end.
std::size_t segment_at(std::size_t at, std::size_t part_bytes, std::size_t segment_bytes) {
  return at < part_bytes ? std::min(segment_bytes, part_bytes - at) : 0;
}

}  // namespace

double pairwise_all_to_all_seconds(const Topology& topology, std::size_t part_bytes, const Costs& costs) {
  if (topology.size() == 1 || part_bytes == 0) return 0;
  const LinkCosts link = shared_link(topology, costs);
  const double others = topology.size() - 1;
  const std::size_t segment = std::min(part_bytes, kAllToAllSegment);
  const double cycles = static_cast<double>((part_bytes + segment - 1) / segment);
  const auto window = static_cast<double>(all_to_all_window(topology.size()));
  const double cycle = others * static_cast<double>(segment) * link.seconds_per_byte;
  const double wire = others * static_cast<double>(part_bytes) * link.seconds_per_byte;
  const double work = others * cycles * 2 * link.per_message_s, turns = cycles / window * (link.message_s(0) + cycle);
  return link.message_s(0) + std::max({wire, work, turns});
}

Program pairwise_all_to_all(int rank, const std::vector<std::size_t>& send_bytes,
                            const std::vector<std::size_t>& receive_bytes, std::size_t segment_bytes) {
  const int size = static_cast<int>(send_bytes.size());
  const std::vector<std::size_t> send_at = offsets_of(send_bytes), receive_at = offsets_of(receive_bytes);
  const std::size_t end = std::max(longest(send_bytes), longest(receive_bytes));
  const std::size_t window = all_to_all_window(size);
  std::vector<std::vector<std::uint32_t>> arrivals(send_bytes.size());  // by i, then by cycle
  Program program;
  for (std::size_t cycle = 0, at = 0; at < end; ++cycle, at += segment_bytes)
    for (int i = 1; i < size; ++i) {
      const int to = wrap(rank + i, size), from = wrap(rank - i, size);
      const std::size_t out = segment_at(at, send_bytes[to], segment_bytes);
      const std::size_t in = segment_at(at, receive_bytes[from], segment_bytes);
      std::vector<std::uint32_t> after;
      if (cycle >= window && cycle - window < arrivals[i].size()) after = {arrivals[i][cycle - window]};
      if (out > 0) program.send(to, {kInput, send_at[to] + at}, out, after);
      if (in > 0) arrivals[i].push_back(program.receive(from, {kOutput, receive_at[from] + at}, in));
    }
  copy_in_steps(program, {kOutput, receive_at[rank]}, {kInput, send_at[rank]}, send_bytes[rank]);
  return program;
}

}  // namespace merak
