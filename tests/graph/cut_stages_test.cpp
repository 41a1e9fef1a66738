#include "graph/cut_stages.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <stdexcept>

#include "graph/brute_force.h"
#include "graph/uniform_cut.h"

namespace merak {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

PipelineModel random_model(std::mt19937& random, int ranks, int stages_per_rank) {
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  PipelineModel model = one_forward_one_backward(ranks * stages_per_rank, 1 + below(9));
  model.budget_bytes.assign(ranks, 0);
  for (int s = 0; s < model.stages(); ++s) {
    model.rank_of[s] = s % ranks;
    if (below(4) == 0) ++model.in_flight[s].whole;
  }
  for (double& bytes : model.budget_bytes)
    bytes = below(4) == 0 ? kInfinity : (200.0 + below(400)) * (1 + stages_per_rank) / 2;
  model.state_factor = 1 + below(4);
  model.latency_s = below(2);
  if (below(3) != 0) model.bytes_per_s = 1 + below(20);
  model.hides_communication = below(2) == 0;
  return model;
}

// n equal nodes in a chain.
LinearGraph chain(int nodes, double saved_bytes = 0, double value_bytes = 0) {
  LinearGraph graph;
  for (int i = 0; i < nodes; ++i) {
    graph.nodes.push_back({.forward_s = 1, .backward_input_s = 1, .backward_weight_s = 1, .saved_bytes = saved_bytes});
    if (i + 1 < nodes) graph.values.push_back({.producer = i, .consumers = {i + 1}, .bytes = value_bytes});
  }
  graph.may_cut.assign(nodes, true);
  return graph;
}

std::vector<int> boundaries_of(const Cut& cut) {
  std::vector<int> boundaries;
  for (std::size_t s = 1; s < cut.stages.size(); ++s) boundaries.push_back(cut.stages[s].first);
  return boundaries;
}

std::vector<int> recomputed_of(const Cut& cut) {
  std::vector<int> recomputed;
  for (const StageCost& stage : cut.stages) recomputed.push_back(stage.recomputed);
  return recomputed;
}

void expect_is_what_it_says(const LinearGraph& graph, const PipelineModel& model, const Cut& cut) {
  std::vector<BruteForce::Stage> stages;
  for (const StageCost& stage : cut.stages) stages.push_back({stage.first, stage.end, stage.first + stage.recomputed});
  const BruteForce by_definition(graph, model);
  EXPECT_NEAR(cut.step_s, by_definition.step_s(stages), 1e-6);
  for (int rank = 0; rank < model.ranks(); ++rank)
    EXPECT_NEAR(cut.memory_bytes[rank], by_definition.memory(stages, rank), 1e-6) << "rank " << rank;
}

TEST(CutStages, FindsTheBestCutOfSmallGraphs) {
  int fitting = 0;
  for (unsigned seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const LinearGraph graph = random_graph(random, 5 + static_cast<int>(random() % 4));
    const IntervalCosts costs(graph);
    const int stages = 1 + static_cast<int>(random() % std::min(4, costs.segments()));
    const PipelineModel model = random_model(random, stages, 1);
    std::vector<int> forced;
    if (stages > 1 && random() % 3 == 0)
      forced = {costs.node_at(1 + static_cast<int>(random() % (costs.segments() - 1)))};
    const double least_s = BruteForce(graph, model).least_step_s({forced.begin(), forced.end()});
    const Cut cut = cut_stages(costs, model, {}, forced);
    expect_is_what_it_says(graph, model, cut);
    ASSERT_EQ(cut.fits(), least_s < kInfinity);
    if (cut.fits()) {
      EXPECT_NEAR(cut.step_s, least_s, 1e-6);
      ++fitting;
    }
  }
  EXPECT_GT(fitting, 100);
  EXPECT_LT(fitting, 390);
}

TEST(CutStages, ComesCloseWithSeveralStagesARank) {
  int fitting = 0, best = 0;
  for (unsigned seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const LinearGraph graph = random_graph(random, 7);
    const IntervalCosts costs(graph);
    if (costs.segments() < 4) continue;
    const PipelineModel model = random_model(random, 2, 2);
    const double least_s = BruteForce(graph, model).least_step_s();
    const Cut cut = cut_stages(costs, model, {}, {});
    expect_is_what_it_says(graph, model, cut);
    if (least_s == kInfinity) {
      EXPECT_FALSE(cut.fits());
      continue;
    }
    ++fitting;
    EXPECT_GE(cut.step_s, least_s - 1e-6);
    if (cut.fits() && cut.step_s < least_s * 1.001) ++best;
  }
  EXPECT_GT(fitting, 50);
  EXPECT_GE(best, fitting * 8 / 10) << "of " << fitting;
}

TEST(CutStages, BalancesAChain) {
  EXPECT_EQ(boundaries_of(cut_stages(IntervalCosts(chain(12)), one_forward_one_backward(4, 8), {}, {})),
            (std::vector<int>{3, 6, 9}));
}

TEST(CutStages, LeavesOneStageWhole) {
  const Cut cut = cut_stages(IntervalCosts(chain(5)), one_forward_one_backward(1, 3), {}, {});
  EXPECT_EQ(cut.points, (std::vector<int>{0, 5}));
  EXPECT_DOUBLE_EQ(cut.step_s, 3 * 15);
}

// In 1F1B stage 0 of 2 has two micro-batches in flight, stage 1 one. Of 6 nodes stage 0 recomputes 3, to fit: 18 + 3
// seconds a micro-batch. Of 5 it recomputes one: 15 + 1, while stage 1 takes 21.
TEST(CutStages, GivesMoreNodesToStagesThatRecomputeLess) {
  const LinearGraph graph = chain(12, 10);
  const IntervalCosts costs(graph);
  PipelineModel model = one_forward_one_backward(2, 100);
  model.budget_bytes = {90, 90};
  const Cut middle = cut_stages(costs, model, {}, {6});
  EXPECT_EQ(recomputed_of(middle), (std::vector<int>{3, 0}));
  const Cut cut = cut_stages(costs, model, {}, {});
  EXPECT_EQ(boundaries_of(cut), (std::vector<int>{5}));
  EXPECT_EQ(recomputed_of(cut), (std::vector<int>{1, 0}));
  EXPECT_DOUBLE_EQ(middle.step_s, 21 + 18 + 99 * 21);
  EXPECT_DOUBLE_EQ(cut.step_s, 16 + 21 + 99 * 21);  // as slow, but with a shorter pass
}

TEST(CutStages, CutsOnlyWhereItMay) {
  LinearGraph graph = chain(8);
  for (int i = 3; i < 7; ++i) graph.may_cut[i] = false;
  EXPECT_EQ(boundaries_of(cut_stages(IntervalCosts(graph), one_forward_one_backward(2, 4), {}, {})),
            (std::vector<int>{2}));
}

TEST(CutStages, TakesFewerBytesAcrossWhereTimeIsTheSame) {
  LinearGraph graph = chain(6, 0, 100);
  graph.nodes[2] = graph.nodes[3] = {};  // free, so that three boundaries balance
  graph.values[2].bytes = 7;             // from node 2 to 3
  EXPECT_EQ(boundaries_of(cut_stages(IntervalCosts(graph), one_forward_one_backward(2, 4), {}, {})),
            (std::vector<int>{3}));
}

TEST(CutStages, SendsASkipValueToEachStageThatUsesIt) {
  LinearGraph graph = chain(4, 0, 1);
  graph.values.push_back({.producer = 0, .consumers = {2, 3}, .bytes = 10, .has_gradient = false});
  const IntervalCosts costs(graph);
  const Cut fine = cut_stages(costs, one_forward_one_backward(4, 1), {}, {1, 2, 3});
  EXPECT_EQ(fine.stages[1].crossing_bytes, 2);  // the chain's value and its gradient: nothing passes through
  EXPECT_EQ(fine.stages[2].crossing_bytes, 12);
  EXPECT_EQ(fine.stages[3].crossing_bytes, 12);
  const Cut coarse = cut_stages(costs, one_forward_one_backward(2, 1), {}, {1});
  EXPECT_EQ(coarse.stages[1].crossing_bytes, 12);  // both uses in one stage
}

TEST(CutStages, StoresATiedParameterOnceAStage) {
  LinearGraph graph = chain(4);
  graph.parameter_bytes = {100, 1};
  graph.nodes[0].parameters = graph.nodes[3].parameters = {0};
  graph.nodes[1].parameters = {1};
  const IntervalCosts costs(graph);
  EXPECT_EQ(cut_stages(costs, one_forward_one_backward(1, 1), {}, {}).stages[0].parameter_bytes, 101);
  const Cut cut = cut_stages(costs, one_forward_one_backward(2, 1), {}, {2});
  EXPECT_EQ(cut.stages[0].parameter_bytes, 101);
  EXPECT_EQ(cut.stages[1].parameter_bytes, 100);
  EXPECT_EQ(cut.memory_bytes, (std::vector<double>{404, 400}));
}

TEST(CutStages, RecomputesWhatItIsTold) {
  const IntervalCosts costs(chain(8, 10));
  const PipelineModel model = one_forward_one_backward(2, 4);
  const auto recomputed = [&](const Recompute& recompute) {
    return recomputed_of(cut_stages(costs, model, recompute, {4}));
  };
  EXPECT_EQ(recomputed({.kind = RecomputeKind::kNone}), (std::vector<int>{0, 0}));
  EXPECT_EQ(recomputed({.kind = RecomputeKind::kAll}), (std::vector<int>{4, 4}));
  EXPECT_EQ(recomputed({.kind = RecomputeKind::kShares, .shares = {0.3, 0.75}}), (std::vector<int>{2, 3}));
  EXPECT_EQ(recomputed({.kind = RecomputeKind::kNodes, .nodes = {1, 9}}), (std::vector<int>{1, 4}));
}

TEST(CutStages, HidesCommunicationBehindWorkUnlessItTakesLonger) {
  const LinearGraph graph = chain(4, 0, 8);  // 8 bytes at 2 bytes/s: 4 s each way, beside 6 s of work a stage
  const IntervalCosts costs(graph);
  PipelineModel model = one_forward_one_backward(2, 11);
  model.bytes_per_s = 2;
  EXPECT_DOUBLE_EQ(cut_stages(costs, model, {}, {2}).step_s, 12 + 8 + 10 * 14);
  model.hides_communication = true;
  EXPECT_DOUBLE_EQ(cut_stages(costs, model, {}, {2}).step_s, 12 + 8 + 10 * 6);
  model.bytes_per_s = 1;
  EXPECT_DOUBLE_EQ(cut_stages(costs, model, {}, {2}).step_s, 12 + 16 + 10 * 8);
}

TEST(CutStages, RefusesWhatCannotBe) {
  LinearGraph graph = chain(4);
  graph.may_cut[2] = false;
  const IntervalCosts costs(graph);
  EXPECT_THROW(cut_stages(costs, one_forward_one_backward(4, 1), {}, {}), std::invalid_argument);
  EXPECT_THROW(cut_stages(costs, one_forward_one_backward(2, 1), {}, {2}), std::invalid_argument);
  EXPECT_THROW(cut_stages(costs, one_forward_one_backward(2, 1), {}, {1, 3}), std::invalid_argument);
  EXPECT_THROW(cut_stages(costs, one_forward_one_backward(3, 1), {}, {3, 1}), std::invalid_argument);
  EXPECT_THROW(cut_stages(costs, one_forward_one_backward(2, 1), {}, {4}), std::invalid_argument);
  EXPECT_THROW(cut_stages(costs, one_forward_one_backward(2, 1), {.kind = RecomputeKind::kNodes, .nodes = {1}}, {}),
               std::invalid_argument);
  graph.values[0].consumers = {0};
  EXPECT_THROW(IntervalCosts{graph}, std::invalid_argument);
}

}  // namespace
}  // namespace merak
