// Batches of moves as the fuzzer draws them: refused, or planned so that every receiver gets what it wants, on any
// network, in no less than the lower bound.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#include "bytes.h"
#include "resharding/check_plan.h"

namespace {

using namespace merak;

Placement placement_of(Bytes& bytes) {
  const int dim = bytes.small(5) - 1;
  switch (bytes.below(4)) {
    case 0:
      return replicate();
    case 1:
      return shard(dim);
    case 2:
      return strided_shard(dim, bytes.below(9));
    default:
      return partial(static_cast<Reduction>(bytes.below(kReductions)));
  }
}

Layout layout_of(Bytes& bytes, std::size_t group) {
  Layout layout;
  int size = 1;
  for (std::size_t k = bytes.below(4); k > 0; --k) {
    layout.mesh_shape.push_back(bytes.small(5));
    layout.placements.push_back(placement_of(bytes));
    size *= layout.mesh_shape.back();
  }
  const int first = bytes.small(group), step = 1 + bytes.small(group);
  for (int i = 0; i < size; ++i) layout.ranks.push_back((first + i * step) % static_cast<int>(group + 1));
  return layout;
}

Move move_of(Bytes& bytes, std::size_t group) {
  Move move;
  for (std::size_t dim = bytes.below(4); dim > 0; --dim)
    move.shape.push_back(bytes.below(bytes.below(8) == 0 ? std::size_t{1} << 40 : 20));
  move.dtype = static_cast<DType>(1 + bytes.below(kDTypes - 1));
  move.source = layout_of(bytes, group);
  move.target = layout_of(bytes, group);
  return move;
}

Network drawn_network(Bytes& bytes, std::size_t group) {
  std::vector<int> host_of;
  for (std::size_t rank = 0; rank < group; ++rank) host_of.push_back(bytes.small(6));
  Network network = network_of(host_of);
  for (HostLinks& host : network.hosts) {
    host.out_bytes_per_s = 1e6 * static_cast<double>(1 + bytes.below(1000));
    host.in_bytes_per_s = 1e6 * static_cast<double>(1 + bytes.below(1000));
  }
  return network;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const std::size_t group = 1 + bytes.below(16);
  const Network network = drawn_network(bytes, group);
  std::vector<Move> moves;
  while (!bytes.empty() && moves.size() < 4) {
    Move move = move_of(bytes, group);
    try {
      check_move(move, static_cast<int>(group), "tensor");
    } catch (const std::invalid_argument&) {
      continue;
    }
    moves.push_back(std::move(move));
  }
  const MoveBatch batch = cut(std::move(moves));
  const ReshardPlan plan = make_plan(batch, network);
  if (!fault_of(plan, batch).empty() || plan.seconds() < plan.bound_s * (1 - 1e-6)) std::abort();
  return 0;
}
