#include "collectives/pairwise_all_to_all.h"

#include <algorithm>
#include <numeric>

#include "collectives/cut.h"

namespace merak {
namespace {

constexpr std::size_t kWindow = 4;  // segments

std::vector<std::size_t> offsets_of(const std::vector<std::size_t>& bytes) {
  std::vector<std::size_t> offsets(bytes.size());
  std::exclusive_scan(bytes.begin(), bytes.end(), offsets.begin(), std::size_t{0});
  return offsets;
}

}  // namespace

double pairwise_all_to_all_seconds(const Topology& topology, std::size_t part_bytes, const Costs& costs) {
  if (topology.size() == 1 || part_bytes == 0) return 0;
  const LinkCosts link = shared_link(topology, costs);
  const double others = topology.size() - 1;
  const std::size_t segment = std::min(part_bytes, kAllToAllSegment);
  const double segments = others * static_cast<double>((part_bytes + segment - 1) / segment);
  const double wire = others * static_cast<double>(part_bytes) * link.seconds_per_byte;
  const double work = segments * 2 * link.per_message_s, turns = segments / kWindow * link.message_s(segment);
  return link.message_s(0) + std::max({wire, work, turns});
}

Program pairwise_all_to_all(int rank, int size, std::size_t part_bytes, std::size_t segment_bytes) {
  const std::vector<Range> segments = segments_of({0, part_bytes}, segment_bytes);
  const auto part_of = [&](int r) { return static_cast<std::size_t>(r) * part_bytes; };
  Program program;
  program.steps.reserve(2 * segments.size() * static_cast<std::size_t>(size));
  std::vector<std::uint32_t> arrivals;
  for (int i = 1; i < size; ++i)
    for (const auto [offset, bytes] : segments) {
      const int to = wrap(rank + i, size), from = wrap(rank - i, size);
      std::vector<std::uint32_t> after;
      if (arrivals.size() >= kWindow) after = {arrivals[arrivals.size() - kWindow]};
      program.send(to, {kInput, part_of(to) + offset}, bytes, after);
      arrivals.push_back(program.receive(from, {kOutput, part_of(from) + offset}, bytes));
    }
  copy_in_steps(program, {kOutput, part_of(rank)}, {kInput, part_of(rank)}, part_bytes);
  return program;
}

Program uneven_all_to_all(int rank, const std::vector<std::size_t>& send_bytes,
                          const std::vector<std::size_t>& receive_bytes, bool at_once) {
  const int size = static_cast<int>(send_bytes.size());
  const std::vector<std::size_t> send_at = offsets_of(send_bytes), receive_at = offsets_of(receive_bytes);
  Program program;
  program.steps.reserve(2 * send_bytes.size());
  std::vector<std::uint32_t> last_send;
  for (int i = 1; i < size; ++i) {
    const int to = wrap(rank + i, size), from = wrap(rank - i, size);
    if (send_bytes[to] > 0) {
      const std::uint32_t sent = program.send(to, {kInput, send_at[to]}, send_bytes[to], last_send);
      if (!at_once) last_send = {sent};
    }
    if (receive_bytes[from] > 0) program.receive(from, {kOutput, receive_at[from]}, receive_bytes[from]);
  }
  copy_in_steps(program, {kOutput, receive_at[rank]}, {kInput, send_at[rank]}, send_bytes[rank]);
  return program;
}

}  // namespace merak
