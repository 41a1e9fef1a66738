#include "pipeline/simulate.h"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>

#include "pipeline/eager.h"
#include "pipeline/lists.h"
#include "pipeline/make.h"
#include "pipeline/one_f_one_b.h"

namespace merak::pipeline {
namespace {

// F, I, W and R take 1, B takes 2, messages take c.
Costs unit_costs(const Schedule& schedule, double c) {
  Costs costs;
  costs.seconds.assign(schedule.stages(), {1, 2, 1, 1, 1, 0});
  costs.bytes.assign(schedule.stages(), {.activation = 1});
  costs.edges.assign(schedule.edges.size(), {c, c, 0, 0});
  return costs;
}

double seconds(const Schedule& schedule, double c, bool blocking = false) {
  Costs costs = unit_costs(schedule, c);
  costs.blocking = blocking;
  return simulate(schedule, costs).seconds;
}

TEST(Simulate, OneForwardOneBackwardTakesItsFormula) {  // (m + p - 1) (F + B)
  for (auto [p, m] : std::vector<std::pair<int, int>>{{1, 1}, {2, 3}, {4, 8}, {4, 2}, {8, 16}}) {
    EXPECT_EQ(seconds(one_f_one_b(p, m), 0), (m + p - 1) * 3);
    EXPECT_EQ(seconds(compute_order({"gpipe", p, p, m}), 0), (m + p - 1) * 3);
  }
}

double recomputing(int p, int m, bool early, bool last, const std::string& kind) {
  Extras extras{.recompute = std::vector<bool>(p, true), .edges = chain(p)};
  extras.early_recompute = early, extras.last_recomputes = last;
  return seconds(complete(compute_order({kind, p, p, m}), extras), 0);
}

TEST(Simulate, ShiftedSavesWhatMeraksRulesSay) {  // p + 2 recomputes
  for (auto [p, m] : std::vector<std::pair<int, int>>{{2, 4}, {3, 8}, {4, 8}, {4, 16}, {5, 12}, {8, 16}, {8, 32}}) {
    const double all = (m + p - 1) * 4;
    EXPECT_EQ(recomputing(p, m, false, true, "1f1b"), all);
    EXPECT_EQ(recomputing(p, m, true, true, "1f1b"), all - (p - 1));   // rule 1
    EXPECT_EQ(recomputing(p, m, true, false, "1f1b"), all - (p + 1));  // rules 1 and 2
    EXPECT_EQ(recomputing(p, m, true, false, "shifted"), all - (p + 2));
  }
  EXPECT_EQ(recomputing(4, 8, true, false, "shifted"), 38);
  EXPECT_EQ(recomputing(8, 16, true, false, "shifted"), 82);
}

// Of the throughput of 1F1B without communication, as resharding.md of the project's notes has it.
TEST(Simulate, GivesTheTableOfEagerSchedules) {
  struct Row {
    int p, m;
    double c, blocking, async, delayed, eager, eager_delayed;
  };
  for (const Row& row :
       {Row{2, 32, 0.5, .857, .861, 1.00, .990, 1.00}, Row{2, 32, 1.5, .667, .673, .756, .971, .980},
        Row{4, 64, 1.0, .605, .668, .801, .971, .985}, Row{4, 64, 2.0, .434, .501, .573, .838, .957}}) {
    const Schedule one = one_f_one_b(row.p, row.m), ahead = eager(row.p, row.m);
    const double free = seconds(one, 0), digits = 5.1e-4;
    EXPECT_NEAR(free / seconds(one, row.c, true), row.blocking, digits);
    EXPECT_NEAR(free / seconds(one, row.c), row.async, digits);
    EXPECT_NEAR(free / seconds(with_delayed_weights(one), row.c), row.delayed, digits);
    EXPECT_NEAR(free / seconds(ahead, row.c), row.eager, digits);
    EXPECT_NEAR(free / seconds(with_delayed_weights(ahead), row.c), row.eager_delayed, digits);
  }
}

TEST(Simulate, EagerHidesASlowBoundary) {
  EXPECT_DOUBLE_EQ(seconds(one_f_one_b(2, 32), 0), 99);
  EXPECT_DOUBLE_EQ(seconds(eager(2, 32), 1.5), 102);
  EXPECT_NEAR(seconds(one_f_one_b(2, 32), 1.5) / seconds(eager(2, 32), 1.5), 1.44, 0.005);
  EXPECT_NEAR(seconds(one_f_one_b(4, 32), 1.5) / seconds(eager(4, 32), 1.5), 1.605, 0.0005);
}

TEST(Simulate, TellsWhenEachActionAndMessageWas) {
  const Schedule schedule = listed({"0F0 0SEND_F0 0RECV_B0 0WAIT_B0 0B0", "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0"});
  Costs costs = unit_costs(schedule, 0);
  costs.edges = {{.value_s = 4, .gradient_s = 3, .latency_s = 0.5}};
  const Simulation simulation = simulate(schedule, costs);
  const auto expect = [](ActionSpan span, double start, double end) {
    EXPECT_DOUBLE_EQ(span.start_s, start);
    EXPECT_DOUBLE_EQ(span.end_s, end);
  };
  expect(simulation.actions[0][0], 0, 1);      // F
  expect(simulation.actions[1][1], 0, 5.5);    // WAIT_F: 1 + 4 + 0.5
  expect(simulation.actions[1][3], 6.5, 8.5);  // B
  expect(simulation.actions[0][3], 1, 12);     // WAIT_B: 8.5 + 3 + 0.5
  expect(simulation.actions[0][4], 12, 14);    // B
  EXPECT_EQ(simulation.seconds, 14);
  ASSERT_EQ(simulation.messages.size(), 2u);
  EXPECT_EQ(simulation.messages[1].message, (Message{false, 0, 1, 0}));
  EXPECT_DOUBLE_EQ(simulation.messages[1].start_s, 8.5);
  EXPECT_DOUBLE_EQ(simulation.bubble(0), 1 - 3.0 / 14);
  EXPECT_DOUBLE_EQ(simulation.bubble(), 1 - 3.0 / 14);
}

TEST(Simulate, LetsAMessageWaitForItsReceiveUnlessItIsBuffered) {
  const Schedule schedule = listed({"0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0WAIT_B0 0B0 0RECV_B1 0WAIT_B1 0B1",
                                    "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0 1RECV_F1 1WAIT_F1 1F1 1B1 1SEND_B1"});
  Costs costs = unit_costs(schedule, 1);
  const auto start_of_second = [&] {
    for (const MessageSpan& span : simulate(schedule, costs).messages)
      if (span.message == Message{true, 0, 1, 1}) return span.start_s;
    return -1.0;
  };
  EXPECT_EQ(start_of_second(), 5);  // on rank 1: 2 until the first value is there, 1 F0, 2 B0
  costs.buffered = true;
  EXPECT_EQ(start_of_second(), 2);  // when it is computed
}

TEST(Simulate, SharesOneLinkOfARankWhereItIsTold) {  // stage 0 feeds 1 and 2, each takes 5 s
  Schedule schedule = listed({"0F0 0B0", "1F0 1B0", "2F0 2B0"});
  schedule.edges = {{0, 1, false}, {0, 2, false}};
  Costs costs = unit_costs(schedule, 5);
  EXPECT_EQ(simulate(schedule, costs).seconds, 1 + 5 + 3);
  costs.shared_links = true;
  EXPECT_EQ(simulate(schedule, costs).seconds, 1 + 5 + 5 + 3);
}

TEST(Simulate, ReducesBesideComputing) {
  Schedule at_the_end = listed({"0F0 1F0 1B0 0B0 1REDUCE_GRAD 0REDUCE_GRAD"});
  Schedule as_soon_as_it_can = listed({"0F0 1F0 1B0 1REDUCE_GRAD 0B0 0REDUCE_GRAD"});
  Costs costs = unit_costs(at_the_end, 0);
  costs.seconds[0].reduce = costs.seconds[1].reduce = 4;
  EXPECT_EQ(simulate(at_the_end, costs).seconds, 6 + 8);
  EXPECT_EQ(simulate(as_soon_as_it_can, costs).seconds, 4 + 8);
  costs.blocking = true;
  EXPECT_EQ(simulate(as_soon_as_it_can, costs).seconds, 6 + 8);
}

TEST(Simulate, TakesWellUnderASecondForManyRanks) {
  const Schedule schedule = complete(compute_order({"1f1b", 64, 64, 512}), {.recompute = {}, .edges = chain(64)});
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(seconds(schedule, 0), (512 + 63) * 3);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));  // 0.2 s; sanitizers are slower
}

TEST(Simulate, RefusesWrongSchedulesAndCosts) {
  const Schedule schedule = one_f_one_b(2, 2);
  Costs costs = unit_costs(schedule, 1);
  EXPECT_NO_THROW(simulate(schedule, costs));
  EXPECT_THROW(simulate(listed({"0F0", "1F0 1B0"}), costs), std::invalid_argument);
  costs.seconds[0].forward = -1;
  EXPECT_THROW(simulate(schedule, costs), std::invalid_argument);
  costs.seconds[0].forward = std::numeric_limits<double>::infinity();
  EXPECT_THROW(simulate(schedule, costs), std::invalid_argument);
  costs.seconds.pop_back();
  EXPECT_THROW(simulate(schedule, costs), std::invalid_argument);
}

}  // namespace
}  // namespace merak::pipeline
