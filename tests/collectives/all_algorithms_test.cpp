// Every algorithm of the room, on every shape of group: validated, then played in random orders of events.

#include "harness.h"

namespace merak {
namespace {

using enum OperationKind;

constexpr OperationKind kRootedKinds[] = {kBroadcast, kReduce, kScatter, kGather};

const std::vector<Topology> kMixedTopologies = {
    {{0, 0, 1, 1}},                                      // two a host
    {{0, 0, 1, 1, 2, 2, 3, 3}},                          //
    {{0, 1, 0, 1, 0, 1}},                                // hosts that take turns
    {{7, 7, 7}},                                         // one host
    {{0, 1, 1, 2, 2, 2}},                                // 1, 2 and 3 ranks
    {{5, 5, 5, 5, 2}},                                   //
    {{0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3}},  // 16 ranks, at least three a host
};

TEST(AllAlgorithms, AreCorrectForEverySizeOfGroup) {
  for (int size : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16})
    for (OperationKind kind : kCollectives)
      for (std::size_t bytes : {0, 1, 7, 64, 1000, 4099})
        expect_correct({.kind = kind, .root = size - 1, .bytes = kind == kBarrier ? 0 : bytes}, uniform_topology(size),
                       5);
}

TEST(AllAlgorithms, AreCorrectForEveryRoot) {
  for (int size : {2, 3, 5, 8, 9})
    for (int root = 0; root < size; ++root)
      for (OperationKind kind : kRootedKinds)
        expect_correct({.kind = kind, .root = root, .bytes = 200, .element_bytes = 8}, uniform_topology(size), 5);
}

TEST(AllAlgorithms, AreCorrectWithSeveralRanksOnAHost) {
  for (const Topology& topology : kMixedTopologies)
    for (OperationKind kind : kCollectives)
      for (int root : {0, topology.size() / 2, topology.size() - 1})
        for (std::size_t bytes : {8, 64, 4104})
          expect_correct({.kind = kind, .root = root, .bytes = kind == kBarrier ? 0 : bytes, .element_bytes = 8},
                         topology, 3);
}

TEST(AllAlgorithms, AreCorrectInPlace) {
  std::vector<Topology> topologies = kMixedTopologies;
  for (int size : {1, 2, 5}) topologies.push_back(uniform_topology(size));
  for (const Topology& topology : topologies)
    for (OperationKind kind : {kReduce, kAllGather, kScatter, kGather})
      expect_correct({.kind = kind, .root = topology.size() - 1, .bytes = 1000, .in_place = true}, topology, 5);
}

// Large enough for grants to bound the scratch memory, so that receives wait for each other.
TEST(AllAlgorithms, AreCorrectForLargeMessages) {
  for (OperationKind kind : {kBroadcast, kReduce, kAllReduce, kReduceScatter, kAllGather, kAllToAll})
    for (int size : {2, 3, 4})
      expect_correct({.kind = kind, .root = 1, .bytes = (10 << 20) + 8, .element_bytes = 8}, uniform_topology(size), 1);
  for (OperationKind kind : {kReduce, kAllReduce, kReduceScatter})
    expect_correct({.kind = kind, .root = 1, .bytes = (10 << 20) + 8, .element_bytes = 8}, {{0, 0, 1, 1, 1}}, 1);
}

TEST(AllAlgorithms, NeedLittleScratchMemoryAndShortSteps) {
  for (const Topology& topology : {uniform_topology(2), uniform_topology(8), uniform_topology(4, 2)})
    for (OperationKind kind : kCollectives) {
      const CollectiveShape shape{.kind = kind, .bytes = kind == kBarrier ? 0u : 64u << 20};
      for (const auto& [algorithm, programs] : programs_by_algorithm(shape, topology))
        for (const Program& program : programs) {
          std::size_t scratch = 0;
          for (std::size_t bytes : program.scratch) scratch += bytes;
          EXPECT_LE(scratch, 16u << 20) << algorithm;
          for (const Step& step : program.steps)
            if (step.kind == StepKind::kReduce || step.kind == StepKind::kCopy) {
              ASSERT_LE(step.bytes, 512u << 10) << algorithm;
            }
        }
    }
}

}  // namespace
}  // namespace merak
