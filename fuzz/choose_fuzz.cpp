// Programs of all ranks for a shape, a topology and costs that the fuzzer draws, validated against each other.

#include <cstddef>
#include <cstdint>

#include "bytes.h"
#include "collectives/choose.h"
#include "transport/validate.h"

namespace {

merak::BufferSizes buffers_of(const merak::CollectiveShape& shape, int rank, std::size_t size) {
  using enum merak::OperationKind;
  const std::size_t one = shape.bytes, all = size * one;
  const bool is_root = rank == shape.root;
  switch (shape.kind) {
    case kBroadcast:
    case kAllReduce:
      return {0, one};
    case kReduce:
      return {one, is_root ? one : 0};
    case kAllGather:
      return {one, all};
    case kGather:
      return {one, is_root ? all : 0};
    case kReduceScatter:
      return {all, one};
    case kScatter:
      return {is_root ? all : 0, one};
    case kAllToAll:
      return {all, all};
    default:
      return {};
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t data_size) {
  Bytes bytes(data, data_size);
  const std::size_t size = 1 + bytes.below(9);
  merak::Topology topology;
  for (std::size_t rank = 0; rank < size; ++rank) topology.host_of.push_back(bytes.small(4));
  const merak::Costs costs{.latency_s = 1e-6 * static_cast<double>(1 + bytes.below(10'000)),
                           .seconds_per_byte = 1e-9 / static_cast<double>(1 + bytes.below(100)),
                           .per_message_s = 1e-6 * static_cast<double>(1 + bytes.below(100))};
  constexpr std::size_t kElements[] = {1, 2, 4, 8, 16};
  merak::CollectiveShape shape{.kind = static_cast<merak::OperationKind>(1 + bytes.below(9)),
                               .root = bytes.small(size),
                               .element_bytes = kElements[bytes.below(5)],
                               .in_place = bytes.below(2) == 1};
  if (shape.kind != merak::OperationKind::kBarrier)
    shape.bytes = bytes.below(bytes.below(2) ? 1 << 10 : 9 << 20) / shape.element_bytes * shape.element_bytes;

  std::vector<std::vector<merak::Choice>> choices;
  std::vector<merak::BufferSizes> buffers;
  for (int rank = 0; rank < topology.size(); ++rank) {
    choices.push_back(merak::candidates(shape, rank, topology, costs));
    buffers.push_back(buffers_of(shape, rank, size));
  }
  for (std::size_t i = 0; i < choices[0].size(); ++i) {
    std::vector<merak::Program> programs;
    for (std::vector<merak::Choice>& of_rank : choices) programs.push_back(std::move(of_rank.at(i).program));
    merak::validate(programs, buffers);
  }
  return 0;
}
