#include "collectives/chain_broadcast.h"

#include "collectives/cut.h"

namespace merak {

Program chain_broadcast(const std::vector<int>& order, int position, std::size_t message_bytes,
                        std::size_t segment_bytes) {
  const bool has_previous = position > 0, has_next = position < static_cast<int>(order.size()) - 1;
  Program program;
  for (const auto [offset, bytes] : segments_of({0, message_bytes}, segment_bytes)) {
    const Place segment{kOutput, offset};
    std::vector<std::uint32_t> arrival;
    // Receives come after nothing: all are permitted at once, so that no segment waits for us.
    if (has_previous) arrival = {program.receive(order[position - 1], segment, bytes)};
    if (has_next) program.send(order[position + 1], segment, bytes, arrival);
  }
  return program;
}

}  // namespace merak
