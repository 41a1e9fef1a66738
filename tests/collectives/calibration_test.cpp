#include "collectives/calibration.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <thread>

#include "transport/engine.h"
#include "transport/in_process_transport.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

// What a rank would measure if the formulas were true.
Measured by_formula(const Costs& costs, bool between) {
  const LinkCosts link = between ? between_link(costs) : inside_link(costs);
  const auto of_bytes = [&](std::size_t bytes) { return link.message_s(bytes); };
  return {.message = of_bytes(0),
          .messages = of_bytes(0) + (kMeasuredMessages - 1) * costs.per_message_s,
          .less = of_bytes(kMeasuredLess),
          .more = of_bytes(kMeasuredMore),
          .reduce = link.reduce_s(kMeasuredMore)};
}

void expect_near(const Costs& found, const Costs& expected) {
  EXPECT_NEAR(found.latency_s, expected.latency_s, 1e-9);
  EXPECT_NEAR(found.latency_inside_s, expected.latency_inside_s, 1e-9);
  EXPECT_NEAR(found.seconds_per_byte, expected.seconds_per_byte, 1e-15);
  EXPECT_NEAR(found.seconds_per_byte_inside, expected.seconds_per_byte_inside, 1e-15);
  EXPECT_NEAR(found.per_message_s, expected.per_message_s, 1e-9);
  EXPECT_NEAR(found.reduce_seconds_per_byte, expected.reduce_seconds_per_byte, 1e-15);
}

TEST(Calibration, FindsTheCostsThatTimesWereMadeFrom) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> factor(0.1, 10);
  for (int draw = 0; draw < 50; ++draw) {
    Costs costs;
    for (double* cost : {&costs.latency_s, &costs.seconds_per_byte, &costs.latency_inside_s,
                         &costs.seconds_per_byte_inside, &costs.per_message_s, &costs.reduce_seconds_per_byte})
      *cost *= factor(random);
    const Topology topology{{7, 3, 7, 3, 7, 9}};  // in the ring: 0 2 4 | 1 3 | 5
    std::vector<Measured> measured;
    for (const bool between : {true, true, false, false, false, true}) measured.push_back(by_formula(costs, between));
    expect_near(costs_of(measured, topology), costs);
  }
}

TEST(Calibration, LinksThatAreNotThereKeepTheirDefaults) {
  Costs costs;
  costs.latency_s = 1, costs.seconds_per_byte = 2, costs.per_message_s = 0.25;
  Costs expected = costs;
  const Topology apart = uniform_topology(3), together = uniform_topology(1, 3);
  expect_near(costs_of(std::vector<Measured>(3, by_formula(costs, true)), apart), expected);
  expected.latency_s = Costs().latency_s, expected.seconds_per_byte = Costs().seconds_per_byte;
  expect_near(costs_of(std::vector<Measured>(3, by_formula(costs, false)), together), expected);
}

TEST(Calibration, OneSlowRankDoesNotCount) {
  const Costs costs;
  std::vector<Measured> measured(5, by_formula(costs, true));
  measured[2] = {1, 2, 3, 9, 1};
  expect_near(costs_of(measured, uniform_topology(5)), costs);
}

TEST(Calibration, NoiseNeverMakesSomethingFree) {
  const Costs costs = costs_of(std::vector<Measured>(2, {5, 3, 9, 1, 0}), uniform_topology(2));
  EXPECT_GT(costs.latency_s, 0);
  EXPECT_GT(costs.seconds_per_byte, 0);
  EXPECT_GT(costs.per_message_s, 0);
  EXPECT_GT(costs.reduce_seconds_per_byte, 0);
}

TEST(Calibration, AllRanksFindTheSame) {
  const Topology topology{{0, 1, 0, 1}};
  InProcessFabric fabric(topology.size());
  std::vector<Costs> found(4);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < topology.size(); ++rank)
    threads.emplace_back([&, rank] {
      Engine engine;
      const auto group = engine.open({"calibration", rank, topology.size()}, fabric.transport(rank));
      const RunProgram run = [&](Program program, Buffer input, Buffer output, const std::shared_ptr<void>& memory) {
        Request request;
        request.signature.kind = OperationKind::kBarrier;
        request.program = std::make_shared<PreparedProgram>(std::move(program));
        request.input = std::move(input), request.output = std::move(output);
        request.timeout = 30s, request.keep_alive = memory;
        const auto begin = Clock::now();
        const auto operation = engine.start(*group, std::move(request));
        EXPECT_TRUE(operation->wait_until(begin + 60s));
        EXPECT_FALSE(operation->error());
        return std::chrono::duration<double>(Clock::now() - begin).count();
      };
      found[static_cast<std::size_t>(rank)] = calibrate(rank, topology, run);
      engine.close(*group, 5s);
    });
  for (std::thread& thread : threads) thread.join();
  for (const Costs& costs : found) EXPECT_EQ(costs, found[0]);
  EXPECT_NE(found[0].seconds_per_byte, Costs().seconds_per_byte);
  EXPECT_NE(found[0].seconds_per_byte_inside, Costs().seconds_per_byte_inside);
}

}  // namespace
}  // namespace merak
