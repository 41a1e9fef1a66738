// Every algorithm of the room as a device issues it: dealt into rounds, then carried out by ranks that are threads over
// an NCCL in memory (transport/fake_nccl.h), which matches by order alone. A group that could not end would miss its
// deadline.

#include "collectives/over_nccl.h"

#include "collectives/harness.h"
#include "transport/rounds_checks.h"

namespace merak {
namespace {

using enum OperationKind;

void expect_correct_over_nccl(const CollectiveShape& shape, const Topology& topology, std::size_t route_bytes) {
  for (const auto& [algorithm, programs] : programs_by_algorithm(shape, topology)) {
    SCOPED_TRACE(algorithm + ": " + text_of(shape, topology) + ", " + std::to_string(route_bytes) + " bytes a route");
    const std::vector<Rounds> rounds = nccl_rounds(programs, route_bytes);
    expect_good_rounds(programs, rounds, route_bytes);
    std::vector<Memory> memory = memory_for(shape, topology.size(), 0);
    const std::vector<Message> expected = expected_outputs(shape, memory);
    if (shape.in_place) place_in_output(shape, memory);
    ASSERT_NO_THROW(run_over_nccl(programs, rounds, memory, work_on_cpu(marked_sum(shape.element_bytes))));
    for (int rank = 0; rank < topology.size(); ++rank) {
      if (expected[rank].empty()) continue;
      ASSERT_EQ(memory[rank].output, expected[rank]) << "rank " << rank;
    }
  }
}

TEST(OverNccl, EverySizeOfGroup) {
  for (int size = 1; size <= 9; ++size)
    for (OperationKind kind : kCollectives)
      for (std::size_t bytes : {0, 8, 4104})
        expect_correct_over_nccl(
            {.kind = kind, .root = size - 1, .bytes = kind == kBarrier ? 0 : bytes, .element_bytes = 8},
            uniform_topology(size), kRouteBytes);
}

TEST(OverNccl, SeveralRanksOnAHost) {
  const std::vector<Topology> topologies = {
      {{0, 0, 1, 1}}, {{0, 1, 0, 1, 0, 1}}, {{7, 7, 7}}, {{0, 1, 1, 2, 2, 2}}, {{0, 0, 0, 1, 1, 1, 2, 2, 2}},
  };
  for (const Topology& topology : topologies)
    for (OperationKind kind : kCollectives)
      for (std::size_t bytes : {8, 4104})
        expect_correct_over_nccl({.kind = kind, .root = 1, .bytes = kind == kBarrier ? 0 : bytes, .element_bytes = 8},
                                 topology, 1000);
}

TEST(OverNccl, InPlace) {
  for (OperationKind kind : {kReduce, kAllGather, kScatter, kGather})
    for (int size : {1, 2, 5})
      expect_correct_over_nccl({.kind = kind, .root = size - 1, .bytes = 1000, .in_place = true},
                               uniform_topology(size), kRouteBytes);
}

// Several segments, one or two in a round.
TEST(OverNccl, Segments) {
  for (OperationKind kind : {kBroadcast, kReduce, kAllReduce, kReduceScatter, kAllGather, kAllToAll})
    for (std::size_t route_bytes : {std::size_t{1}, std::size_t{256} << 10})
      expect_correct_over_nccl({.kind = kind, .root = 1, .bytes = (320 << 10) + 8, .element_bytes = 8}, {{0, 0, 1, 1}},
                               route_bytes);
}

// Large enough for scratch memory to be used over and over.
TEST(OverNccl, ScratchMemoryIsUsedAgain) {
  expect_correct_over_nccl({.kind = kAllReduce, .bytes = (17 << 20) + 8, .element_bytes = 8}, uniform_topology(2),
                           kRouteBytes);
}

// Every rank has other sizes, some of them nothing.
TEST(OverNccl, UnevenAllToAll) {
  constexpr int kSize = 4;
  const auto bytes = [](int from, int to) { return static_cast<std::size_t>((from * 7 + to * 3) % 5 * 24); };
  std::vector<Program> programs;
  std::vector<Memory> memory(kSize), expected(kSize);
  for (int rank = 0; rank < kSize; ++rank) {
    CollectiveShape shape{.kind = kAllToAll};
    for (int peer = 0; peer < kSize; ++peer) {
      shape.send_bytes.push_back(bytes(rank, peer)), shape.receive_bytes.push_back(bytes(peer, rank));
      memory[rank].input.insert(memory[rank].input.end(), bytes(rank, peer), std::byte(rank * 16 + peer));
      expected[rank].output.insert(expected[rank].output.end(), bytes(peer, rank), std::byte(peer * 16 + rank));
    }
    memory[rank].output.resize(expected[rank].output.size());
    programs.push_back(choose(shape, rank, uniform_topology(kSize)).program);
  }
  ASSERT_NO_THROW(run_over_nccl(programs, nccl_rounds(programs), memory, work_on_cpu(marked_sum(1))));
  for (int rank = 0; rank < kSize; ++rank) EXPECT_EQ(memory[rank].output, expected[rank].output);
}

}  // namespace
}  // namespace merak
