#include "collectives/dissemination_barrier.h"

#include <bit>

namespace merak {

double dissemination_barrier_seconds(const Topology& topology, const Costs& costs) {
  const unsigned size = static_cast<unsigned>(topology.size());
  return std::bit_width(size - 1) * chain_link(topology, costs).message_s(0);
}

Program dissemination_barrier(int rank, int size) {
  Program program;
  std::vector<std::uint32_t> heard;
  for (int distance = 1; distance < size; distance *= 2) {
    program.send((rank + distance) % size, {}, 0, heard);
    heard.push_back(program.receive((rank - distance + size) % size, {}, 0));
  }
  return program;
}

}  // namespace merak
