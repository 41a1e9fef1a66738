#include "graph/shortfall.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "graph/brute_force.h"
#include "graph/cut_stages.h"

namespace merak {
namespace {

// Nodes that save 10 bytes each.
LinearGraph chain(int nodes) {
  LinearGraph graph;
  for (int i = 0; i < nodes; ++i) {
    graph.nodes.push_back({.forward_s = 1, .backward_input_s = 2, .backward_weight_s = 0, .saved_bytes = 10});
    if (i + 1 < nodes) graph.values.push_back({.producer = i, .consumers = {i + 1}, .bytes = 1});
  }
  graph.may_cut.assign(nodes, true);
  return graph;
}

TEST(Shortfall, SaysWhatIsMissing) {  // everything recomputed: stage 0 needs its 4 nodes once, stage 1 its input too
  const IntervalCosts costs(chain(8));
  PipelineModel model = one_forward_one_backward(2, 8);
  model.budget_bytes = {30, 30};
  const Cut cut = cut_stages(costs, model, {}, {});
  EXPECT_FALSE(cut.fits());
  EXPECT_EQ(cut.missing_bytes, (std::vector<double>{10, 11}));
}

TEST(Shortfall, NamesWhatWouldFit) {
  const IntervalCosts costs(chain(8));
  PipelineModel model = one_forward_one_backward(2, 8);
  model.budget_bytes = {25, 25};
  Remedies found = remedies_for(costs, model, {}, {});
  EXPECT_EQ(found.in_flight, 0);  // 40 bytes are live in any case
  EXPECT_EQ(found.stages, 4);     // of 2 nodes: 20, and up to 3 inputs of a byte each
  model.budget_bytes = {45, 45};
  found = remedies_for(costs, model, {.kind = RecomputeKind::kNone}, {});
  EXPECT_EQ(found.in_flight, 1);
  EXPECT_TRUE(found.recompute);
}

TEST(Shortfall, AgreesWithTheSearch) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const LinearGraph graph = random_graph(random, 8);
    const IntervalCosts costs(graph);
    if (costs.segments() < 3) continue;
    PipelineModel model = one_forward_one_backward(3, 4);
    model.budget_bytes.assign(3, 200.0 + static_cast<double>(random() % 300));
    const Cut cut = cut_stages(costs, model, {}, {});
    const Recompute recompute;
    EXPECT_EQ(any_cut_fits(StageOptions(costs, model, recompute, {})), cut.fits());
    if (cut.fits()) continue;
    // With what the worst rank misses a cut fits, with less none does.
    const double missing = *std::max_element(cut.missing_bytes.begin(), cut.missing_bytes.end());
    for (double& bytes : model.budget_bytes) bytes += missing;
    EXPECT_TRUE(cut_stages(costs, model, {}, {}).fits());
    for (double& bytes : model.budget_bytes) bytes -= 0.5;
    EXPECT_FALSE(cut_stages(costs, model, {}, {}).fits());
  }
}

}  // namespace
}  // namespace merak
