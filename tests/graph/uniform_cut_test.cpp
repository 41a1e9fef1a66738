#include "graph/uniform_cut.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "graph/cut_stages.h"

namespace merak {
namespace {

// L nodes a stage, with A bytes saved by a stage and parameters of P bytes.
LinearGraph uniform_graph(int stages, int nodes_a_stage, double saved_bytes, double state_bytes) {
  LinearGraph graph;
  for (int i = 0; i < stages * nodes_a_stage; ++i) {
    graph.nodes.push_back({.forward_s = 1,
                           .backward_input_s = 1,
                           .backward_weight_s = 1,
                           .saved_bytes = saved_bytes / nodes_a_stage,
                           .parameters = {i}});
    graph.parameter_bytes.push_back(state_bytes / nodes_a_stage);
    if (i > 0) graph.values.push_back({.producer = i - 1, .consumers = {i}, .bytes = 3});
  }
  graph.values.push_back({.producer = -1, .consumers = {0}, .bytes = 3, .has_gradient = false});
  graph.may_cut.assign(graph.nodes.size(), true);
  return graph;
}

// Merak's formula, with n = p - s in flight: rho_s = 1 - (M - S_s - A_s - n b) / ((n - 1) A_s), within 0 and 1.
TEST(StageAwareRecompute, IsMeraksFormulaForEqualNodes) {
  constexpr int kStages = 4, kNodes = 24;
  constexpr double kSaved = 480, kState = 96, kInput = 3;
  const IntervalCosts costs(uniform_graph(kStages, kNodes, kSaved, kState));
  for (double budget : {590.0, 700.0, 900.0, 1100.0, 1500.0, 2100.0}) {
    PipelineModel model = one_forward_one_backward(kStages, 8);
    model.state_factor = 1;
    model.budget_bytes.assign(kStages, budget);
    const Cut cut = cut_stages(costs, model, {}, {kNodes, 2 * kNodes, 3 * kNodes});
    for (int s = 0; s + 1 < kStages; ++s) {
      const int n = kStages - s;
      const double rho = 1 - (budget - kState - kSaved - n * kInput) / ((n - 1) * kSaved);
      EXPECT_EQ(cut.stages[s].recomputed, std::ceil(std::clamp(rho, 0.0, 1.0) * kNodes - 1e-9)) << budget << " " << s;
    }
    EXPECT_EQ(cut.stages[kStages - 1].recomputed, 0);
  }
}

// Its other form: with equal memory everywhere, (p - 1 - s) (1 - rho_s) is the same for all stages that recompute.
TEST(StageAwareRecompute, KeepsTheSameOfWaitingMicroBatchesEverywhere) {
  LinearGraph graph = uniform_graph(4, 60, 600, 0);
  for (Value& value : graph.values) value.bytes = 0;
  PipelineModel model = one_forward_one_backward(4, 8);
  model.budget_bytes.assign(4, 600 + 500);
  const Cut cut = cut_stages(IntervalCosts(graph), model, {}, {60, 120, 180});
  EXPECT_EQ(cut.stages[0].recomputed, 44);  // 3 x 16 kept, of 60 nodes
  EXPECT_EQ(cut.stages[1].recomputed, 35);  // 2 x 25
  EXPECT_EQ(cut.stages[2].recomputed, 10);  // 1 x 50
  EXPECT_EQ(cut.stages[3].recomputed, 0);
}

TEST(UniformCut, CountsNodesOrParameters) {
  LinearGraph graph = uniform_graph(1, 8, 0, 80);
  const IntervalCosts even(graph);
  EXPECT_EQ(uniform_points(even, 4, Weight::kNodes), (std::vector<int>{0, 2, 4, 6, 8}));
  EXPECT_EQ(uniform_points(even, 4, Weight::kParameters), (std::vector<int>{0, 2, 4, 6, 8}));
  graph.parameter_bytes[0] = 130;
  const IntervalCosts heavy(graph);
  EXPECT_EQ(uniform_points(heavy, 2, Weight::kParameters), (std::vector<int>{0, 1, 8}));
  EXPECT_EQ(uniform_points(heavy, 8, Weight::kParameters), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST(UniformCut, RecomputesTheLeastShareThatFitsEverywhere) {
  const IntervalCosts costs(uniform_graph(4, 24, 480, 0));
  PipelineModel model = one_forward_one_backward(4, 8);
  model.budget_bytes.assign(4, 480 + 12 + 3 * 480 / 3);  // stage 0 keeps a third
  const UniformCut uniform = uniform_recompute(costs, model, uniform_points(costs, 4, Weight::kNodes));
  EXPECT_TRUE(uniform.cut.fits());
  for (const StageCost& stage : uniform.cut.stages) EXPECT_EQ(stage.recomputed, 16);
  model.budget_bytes.assign(4, 400);
  EXPECT_FALSE(uniform_recompute(costs, model, uniform_points(costs, 4, Weight::kNodes)).cut.fits());
  model.budget_bytes.assign(4, 4000);
  EXPECT_EQ(uniform_recompute(costs, model, uniform_points(costs, 4, Weight::kNodes)).share, 0);
}

}  // namespace
}  // namespace merak
