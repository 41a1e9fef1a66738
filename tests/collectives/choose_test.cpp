#include "collectives/choose.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "harness.h"

namespace merak {
namespace {

using enum OperationKind;

std::string chosen(OperationKind kind, std::size_t bytes, const Topology& topology) {
  return choose({.kind = kind, .bytes = bytes, .element_bytes = 4}, 0, topology).algorithm;
}

TEST(Choose, TakesFewRoundsForSmallAndFewBytesForLargeMessages) {
  const Topology eight = uniform_topology(8);
  EXPECT_EQ(chosen(kBroadcast, 1 << 10, eight), "tree broadcast");
  EXPECT_EQ(chosen(kBroadcast, 64 << 20, eight), "chain broadcast");
  EXPECT_EQ(chosen(kReduce, 1 << 10, eight), "tree reduce");
  EXPECT_EQ(chosen(kReduce, 64 << 20, eight), "chain reduce");
  EXPECT_EQ(chosen(kAllReduce, 1 << 10, eight), "doubling all_reduce");
  EXPECT_EQ(chosen(kAllReduce, 64 << 10, eight), "direct all_reduce");
  EXPECT_EQ(chosen(kAllReduce, 64 << 20, eight), "ring all_reduce");
  EXPECT_EQ(chosen(kAllGather, 64 << 20, eight), "ring all_gather");
  EXPECT_EQ(chosen(kReduceScatter, 64 << 20, eight), "ring reduce_scatter");
  EXPECT_EQ(chosen(kAllToAll, 1 << 10, eight), "pairwise all_to_all");
  EXPECT_EQ(chosen(kAllToAll, 64 << 20, eight), "pairwise all_to_all");
}

TEST(Choose, CrossesTheLinksOfHostsWithSeveralRanksOnce) {
  for (OperationKind kind : {kAllReduce, kAllGather, kReduceScatter})
    EXPECT_EQ(chosen(kind, 64 << 20, uniform_topology(4, 2)), std::string("hierarchical ") + name(kind));
  EXPECT_EQ(chosen(kAllReduce, 64 << 20, {{0, 1, 1, 2, 2, 2}}), "hierarchical all_reduce");
  EXPECT_EQ(chosen(kAllReduce, 64 << 20, uniform_topology(1, 4)), "ring all_reduce");
}

TEST(Choose, GivesAllRanksTheSameAlgorithm) {
  const Topology topology{{0, 1, 1, 2, 2, 2}};
  for (OperationKind kind : {kBroadcast, kReduce, kAllReduce, kAllGather, kReduceScatter, kAllToAll, kScatter, kGather})
    for (std::size_t bytes = 4; bytes < 16 << 20; bytes *= 4)
      for (int rank = 0; rank < topology.size(); ++rank) {
        const CollectiveShape shape{.kind = kind, .bytes = bytes, .element_bytes = 4, .in_place = rank % 2 == 0};
        EXPECT_EQ(choose(shape, rank, topology).algorithm, chosen(kind, bytes, topology));
      }
}

TEST(Choose, IsTheCheapestCandidate) {
  const CollectiveShape shape{.kind = kAllReduce, .bytes = 4096, .element_bytes = 4};
  const Choice choice = choose(shape, 3, uniform_topology(8));
  for (const Choice& candidate : candidates(shape, 3, uniform_topology(8))) {
    EXPECT_GE(candidate.seconds, choice.seconds);
    if (candidate.algorithm == choice.algorithm) {
      EXPECT_EQ(candidate.program, choice.program);
    }
  }
}

void expect_refused(const CollectiveShape& shape, int rank, const std::string& text) {
  try {
    choose(shape, rank, uniform_topology(3));
    FAIL() << text;
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(error.what(), "choose: " + text);
  }
}

TEST(Choose, RefusesWhatMakesNoSense) {
  expect_refused({.kind = kAllReduce}, 3, "there is no rank 3 in a group of 3");
  expect_refused({.kind = kBroadcast, .root = -1}, 0, "there is no root -1 in a group of 3");
  expect_refused({.kind = kReduce, .bytes = 6, .element_bytes = 4}, 0, "6 bytes are not whole elements of 4 bytes");
  expect_refused({.kind = kSend}, 0, "a point-to-point message needs no program");
  expect_refused({.kind = kAllToAll, .send_bytes = {1, 2}, .receive_bytes = {1, 2, 3}}, 0,
                 "uneven all_to_all needs the bytes for and from every rank in a group of 3");
  expect_refused({.kind = kAllToAll, .send_bytes = {1, 2, 3}, .receive_bytes = {2, 2, 3}}, 0,
                 "this rank's part for itself has two sizes");
}

TEST(Choose, NeedsFewSteps) {  // so that a plan costs little beside the operation
  const Topology eight = uniform_topology(8);
  for (OperationKind kind : kCollectives)
    for (int rank = 0; rank < 8; ++rank) {
      const CollectiveShape shape{.kind = kind, .bytes = kind == kBarrier ? 0u : 1024u};
      EXPECT_LE(choose(shape, rank, eight).program.steps.size(), 24u) << name(kind);
    }
}

}  // namespace
}  // namespace merak
