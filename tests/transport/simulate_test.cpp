#include "transport/simulate.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace merak {
namespace {

constexpr auto kSend = StepKind::kSend, kReceive = StepKind::kReceive, kReduce = StepKind::kReduce;

// A second for each byte, ten for a latency: sums that can be read.
SimulatedCluster cluster(std::vector<int> host_of) {
  return {.host_of = std::move(host_of),
          .latency_s = 10,
          .latency_inside_s = 5,
          .seconds_per_byte = 1,
          .seconds_per_byte_inside = 0.5,
          .per_message_s = 2,
          .reduce_seconds_per_byte = 0.25};
}

Step send(int peer, std::size_t bytes, std::vector<std::uint32_t> after = {}) {
  return {kSend, peer, {}, {}, bytes, std::move(after)};
}
Step receive(int peer, std::size_t bytes, std::vector<std::uint32_t> after = {}) {
  return {kReceive, peer, {}, {}, bytes, std::move(after)};
}

Simulation simulated(const SimulatedCluster& cluster, const std::vector<std::vector<Step>>& programs,
                     bool with_trace = false) {
  return simulate(
      cluster,
      [&](int rank) {
        return Program{programs[rank], {}};
      },
      with_trace);
}

TEST(Simulate, PricesAMessage) {
  EXPECT_EQ(simulated(cluster({0, 1}), {{send(1, 100)}, {receive(0, 100)}}).seconds, 2 + 100 + 10 + 2);
  EXPECT_EQ(simulated(cluster({0, 0}), {{send(1, 100)}, {receive(0, 100)}}).seconds, 2 + 50 + 5 + 2);
}

TEST(Simulate, CountsWhatLeavesAHost) {
  const Simulation run =
      simulated(cluster({7, 7, 3}), {{send(1, 10), send(2, 30)}, {receive(0, 10)}, {receive(0, 30)}});
  EXPECT_EQ(run.bytes_leaving_host, (std::map<int, std::size_t>{{7, 30}}));
}

TEST(Simulate, LetsRanksOfAHostShareItsLink) {
  const std::vector<std::vector<Step>> both = {{send(2, 100)}, {send(3, 100)}, {receive(0, 100)}, {receive(1, 100)}};
  EXPECT_EQ(simulated(cluster({0, 1, 2, 3}), both).seconds, 114);
  EXPECT_EQ(simulated(cluster({0, 0, 1, 2}), both).seconds, 214);  // one link out
  EXPECT_EQ(simulated(cluster({0, 1, 2, 2}), both).seconds, 214);  // one link in
}

TEST(Simulate, PassesSegmentsOnWhileOthersArrive) {
  const std::vector<std::vector<Step>> chain = {
      {send(1, 50), send(1, 50)},
      {receive(0, 50), send(2, 50, {0}), receive(0, 50), send(2, 50, {2})},
      {receive(1, 50), receive(1, 50)},
  };
  EXPECT_EQ(simulated(cluster({0, 1, 2}), chain).seconds, 2 * (2 + 50 + 10 + 2) + 50);
}

TEST(Simulate, SendsTheLowerStepFirst) {
  const std::vector<std::vector<Step>> programs = {
      {send(1, 10), send(2, 10), send(1, 10)}, {receive(0, 10), receive(0, 10)}, {receive(0, 10)}};
  const Simulation run = simulated(cluster({0, 1, 2}), programs, true);
  double left[3] = {};
  for (const SimulatedStep& step : run.trace)
    if (step.rank == 0) left[step.step] = step.end_s;
  EXPECT_EQ(left[0], 12);
  EXPECT_EQ(left[1], 22);
  EXPECT_EQ(left[2], 32);
}

TEST(Simulate, HoldsBackALargeMessageUntilItIsGranted) {
  // Rank 1 receives from rank 0 only after what rank 2 sends.
  const auto programs = [](std::size_t bytes) {
    return std::vector<std::vector<Step>>{{send(1, bytes)}, {receive(2, 100), receive(0, bytes, {0})}, {send(1, 100)}};
  };
  SimulatedCluster three = cluster({0, 1, 2});
  EXPECT_EQ(simulated(three, programs(50)).seconds, 2 + 10 + 50 + 100 + 2 + 2);  // both on rank 1's link at once
  three.at_once_bytes = 49;
  EXPECT_EQ(simulated(three, programs(50)).seconds, 114 + 10 + (2 + 50 + 10 + 2));
}

TEST(Simulate, PricesAReduce) {
  const Step reduce{kReduce, -1, {}, {}, 100, {0}};
  EXPECT_EQ(simulated(cluster({0, 1}), {{send(1, 100)}, {receive(0, 100), reduce}}).seconds, 114 + 25);
}

TEST(Simulate, RefusesProgramsThatDoNotMatch) {
  EXPECT_THROW(simulated(cluster({0, 1}), {{send(1, 1)}, {}}), std::logic_error);
  EXPECT_THROW(simulated(cluster({0, 1}), {{}, {receive(0, 1)}}), std::logic_error);
  EXPECT_THROW(simulated(cluster({0, 1}), {{receive(1, 1), send(1, 1, {0})}, {receive(0, 1), send(0, 1, {0})}}),
               std::logic_error);
}

}  // namespace
}  // namespace merak
