#include "planner/stage_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

#include "planner/every_arrangement.h"
#include "planner/least_missing.h"

namespace merak::planner {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// By number of stages.
std::map<int, FoundStages> by_number(const SearchResult& result) {
  std::map<int, FoundStages> found;
  for (const FoundStages& one : result.found) found[static_cast<int>(one.stages.size())] = one;
  return found;
}

Pinned random_pins(const RandomSearch& search, std::mt19937& random) {
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  Pinned pinned;
  for (int point = 1; point < search.costs[0]->segments(); ++point)
    if (below(5) == 0) pinned.boundaries.push_back(point);
  if (below(2) == 0) return pinned;
  pinned.stages = 1 + below(search.model.max_stages);
  if (below(2) == 0)
    for (int s = 0; s < pinned.stages; ++s)
      pinned.shapes.push_back(below(1 + static_cast<int>(search.shapes.size())) - 1);
  return pinned;
}

void expect_is_what_it_says(const RandomSearch& search, const FoundStages& found) {
  const StageShape& first = search.shapes[found.stages[0].shape];
  EXPECT_TRUE(first.may_begin.empty() || first.may_begin[0]);
  double passes_s = 0, longest_s = 0;
  int device = 0, node = 0;
  for (const FoundStage& stage : found.stages) {
    const StageShape& shape = search.shapes[stage.shape];
    EXPECT_EQ(stage.first_device, device);
    EXPECT_EQ(stage.cost.first, node);
    EXPECT_EQ(stage.devices, shape.devices);
    EXPECT_TRUE(shape.may_begin.empty() || shape.may_begin[device]);
    EXPECT_EQ(stage.missing_bytes, 0);
    EXPECT_NEAR(stage.pass_s, stage.cost.pass_s() + stage.once_s / search.model.micro_batches, 1e-12);
    device += stage.devices, node = stage.cost.end;
    passes_s += stage.pass_s, longest_s = std::max(longest_s, stage.period_s);
  }
  EXPECT_EQ(device, search.model.devices);
  EXPECT_EQ(node, search.costs[0]->nodes());
  EXPECT_NEAR(found.step_s, passes_s + (search.model.micro_batches - 1) * longest_s, 1e-9);
}

TEST(StageSearch, FindsTheBestForEachNumberOfStages) {
  int fitting = 0, all = 0;
  for (unsigned seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const RandomSearch search(random);
    const Pinned pinned = seed % 2 == 0 ? Pinned{} : random_pins(search, random);
    EveryArrangement everything(search, pinned);
    const SearchResult result = search_stages(search.shapes, search.model, pinned);
    const std::map<int, FoundStages> found = by_number(result);
    double least_s = kInfinity;
    for (int stages = 1; stages <= search.model.max_stages; ++stages) {
      const double step_s = everything.least_step_s(stages);
      least_s = std::min(least_s, step_s);
      ++all;
      ASSERT_EQ(found.count(stages), step_s < kInfinity) << stages << " stages";
      if (step_s == kInfinity) continue;
      ++fitting;
      expect_is_what_it_says(search, found.at(stages));
      EXPECT_NEAR(found.at(stages).step_s, step_s, 1e-9 * step_s) << stages << " stages";
      EXPECT_NEAR(found.at(stages).bound_s, step_s, 1e-8 * step_s) << stages << " stages";
    }
    if (least_s == kInfinity) {
      EXPECT_EQ(result.bound_s, kInfinity);
      continue;
    }
    EXPECT_NEAR(result.found.front().step_s, least_s, 1e-9 * least_s);
    EXPECT_LE(result.bound_s, least_s);
  }
  EXPECT_GT(fitting, 300);
  EXPECT_GT(all - fitting, 300);
}

TEST(StageSearch, StaysWithinItsToleranceAndAboveItsBound) {
  int inexact = 0, found_inexact = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    RandomSearch search(random);
    search.model.tolerance = 0.02 + 0.1 * static_cast<double>(random() % 5);
    EveryArrangement everything(search, {});
    const SearchResult result = search_stages(search.shapes, search.model);
    double least_s = kInfinity;
    for (const auto& [stages, found] : by_number(result)) {
      const double step_s = everything.least_step_s(stages);
      least_s = std::min(least_s, step_s);
      EXPECT_LE(found.bound_s, step_s);
      EXPECT_GE(found.step_s, step_s * (1 - 1e-9));
      EXPECT_LE(found.step_s * (1 - search.model.tolerance), step_s * (1 + 1e-9));
      EXPECT_GE(found.bound_s, found.step_s * (1 - search.model.tolerance) * (1 - 1e-8));
      if (found.bound_s < step_s * (1 - 1e-6)) ++inexact;
      if (found.step_s > step_s * (1 + 1e-6)) ++found_inexact;
    }
    EXPECT_LE(result.bound_s, least_s);
  }
  EXPECT_GT(inexact, 50);
  EXPECT_GT(found_inexact, 5);
}

TEST(StageSearch, LeavesOutNumbersOfStagesThatTakeMuchLonger) {
  int left_out = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    RandomSearch search(random);
    const SearchResult all = search_stages(search.shapes, search.model);
    search.model.within = 0.1;
    const SearchResult some = search_stages(search.shapes, search.model);
    const std::map<int, FoundStages> kept = by_number(some);
    for (const FoundStages& one : all.found) {
      const int stages = static_cast<int>(one.stages.size());
      const bool is_within = one.step_s <= all.found[0].step_s * 1.1 * (1 - 1e-8);
      if (is_within) {
        ASSERT_EQ(kept.count(stages), 1u);
        EXPECT_NEAR(kept.at(stages).step_s, one.step_s, 1e-9 * one.step_s);
      } else if (kept.count(stages) == 0) {
        ++left_out;
      }
    }
    EXPECT_LE(some.bound_s, all.found.empty() ? kInfinity : all.found[0].step_s);
  }
  EXPECT_GT(left_out, 50);
}

TEST(LeastMissing, IsTheLeastThatTheWorstStageMisses) {
  int missing_some = 0, impossible = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    RandomSearch search(random);
    for (StageShape& shape : search.shapes) shape.budget_bytes = 20.0 + static_cast<double>(random() % 60);
    const Pinned pinned = seed % 2 == 0 ? Pinned{} : random_pins(search, random);
    const double least = EveryArrangement(search, pinned).least_missing_bytes();
    if (least == kInfinity) {
      EXPECT_THROW(least_missing(search.shapes, search.model, pinned), std::invalid_argument);
      ++impossible;
      continue;
    }
    double worst = 0;
    for (const FoundStage& stage : least_missing(search.shapes, search.model, pinned).stages)
      worst = std::max(worst, stage.missing_bytes);
    EXPECT_NEAR(worst, least, 1e-6);
    EXPECT_EQ(search_stages(search.shapes, search.model, pinned).found.empty(), least > 0);
    if (least > 0) ++missing_some;
  }
  EXPECT_GT(missing_some, 50);
  EXPECT_GT(impossible, 10);
}

// Equal nodes of 12 s in a chain; on n devices each takes an n-th.
struct Chain {
  std::vector<std::unique_ptr<IntervalCosts>> costs;
  std::vector<StageShape> shapes;

  Chain(int nodes, const std::vector<int>& widths, double saved_bytes = 0, double value_bytes = 0,
        double parameter_bytes = 0) {
    for (int width : widths) {
      LinearGraph graph;
      for (int i = 0; i < nodes; ++i) {
        graph.nodes.push_back({.forward_s = 4.0 / width, .backward_input_s = 8.0 / width});
        graph.nodes.back().saved_bytes = saved_bytes / width;
        graph.nodes.back().parameters = {i};
        graph.parameter_bytes.push_back(parameter_bytes / width);
        if (i + 1 < nodes) graph.values.push_back({.producer = i, .consumers = {i + 1}, .bytes = value_bytes});
      }
      graph.may_cut.assign(nodes, true);
      costs.push_back(std::make_unique<IntervalCosts>(graph));
      shapes.push_back({.devices = width, .costs = costs.back().get()});
    }
  }
};

SearchModel one_f_one_b(int devices, int stages, int micro_batches) {
  SearchModel model{.devices = devices, .max_stages = stages, .micro_batches = micro_batches};
  model.in_flight.clear();
  for (int behind = 0; behind < stages; ++behind)
    model.in_flight.push_back({.whole = 1, .checkpointed = std::min(micro_batches, behind + 1) - 1});
  return model;
}

std::vector<int> widths_of(const FoundStages& found) {
  std::vector<int> widths;
  for (const FoundStage& stage : found.stages) widths.push_back(stage.devices);
  return widths;
}

// Three equal nodes on four devices: a stage of two nodes on two devices is as slow as one of one node on one.
TEST(StageSearch, GivesMoreDevicesToStagesWithMoreNodes) {
  const Chain chain(4, {1, 2});
  const SearchModel model = one_f_one_b(4, 3, 8);
  const std::map<int, FoundStages> found = by_number(search_stages(chain.shapes, model));
  EXPECT_EQ(found.at(3).bottleneck_s, 12);
  EXPECT_EQ(found.at(3).step_s, 36 + 7 * 12);
  EXPECT_EQ(found.at(2).step_s, 24 + 7 * 12);
  EXPECT_EQ(found.count(1), 0u);  // no shape takes all four
}

TEST(StageSearch, PutsStagesOnlyWhereTheyMayBegin) {
  Chain chain(4, {1, 2});
  chain.shapes[1].may_begin = {false, true, false, false, false};
  const std::map<int, FoundStages> found = by_number(search_stages(chain.shapes, one_f_one_b(4, 3, 8)));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(widths_of(found.at(3)), (std::vector<int>{1, 2, 1}));
  EXPECT_EQ(found.at(3).points, (std::vector<int>{0, 1, 3, 4}));
}

// Two devices of one kind in front of two that are half as fast: shapes of one device that may begin at some only.
TEST(StageSearch, GivesLessToSlowerDevices) {
  Chain chain(6, {1, 1});
  LinearGraph slow;
  for (int i = 0; i < 6; ++i) {
    slow.nodes.push_back({.forward_s = 8, .backward_input_s = 16});
    if (i < 5) slow.values.push_back({.producer = i, .consumers = {i + 1}, .bytes = 0});
  }
  slow.may_cut.assign(6, true);
  const IntervalCosts slow_costs(slow);
  chain.shapes[1].costs = &slow_costs;
  chain.shapes[0].may_begin = {true, true, false, false, false};
  chain.shapes[1].may_begin = {false, false, true, true, false};
  const SearchResult result = search_stages(chain.shapes, one_f_one_b(4, 4, 10));
  ASSERT_EQ(result.found.size(), 1u);
  EXPECT_EQ(result.found[0].points, (std::vector<int>{0, 2, 4, 5, 6}));
  EXPECT_EQ(result.found[0].bottleneck_s, 24);
}

TEST(StageSearch, TakesFewerBytesAcrossWhereTimeIsTheSame) {
  LinearGraph graph;
  for (int i = 0; i < 6; ++i) {
    graph.nodes.push_back(i == 2 || i == 3 ? NodeCost{} : NodeCost{.forward_s = 1, .backward_input_s = 2});
    if (i < 5) graph.values.push_back({.producer = i, .consumers = {i + 1}, .bytes = i == 2 ? 7.0 : 100.0});
  }
  graph.may_cut.assign(6, true);
  const IntervalCosts costs(graph);
  const SearchResult result = search_stages({{.devices = 1, .costs = &costs}}, one_f_one_b(2, 2, 4));
  EXPECT_EQ(result.found[0].points, (std::vector<int>{0, 3, 6}));
}

// 24 parameter bytes a node on one device, 12 each on two: a stage's once counts for each micro-batch by its share.
TEST(StageSearch, SharesWhatHappensOnceAmongMicroBatches) {
  Chain chain(2, {1, 2}, 0, 0, 24);
  for (StageShape& shape : chain.shapes) shape.once_s_per_byte = 0.5;
  const std::map<int, FoundStages> found = by_number(search_stages(chain.shapes, one_f_one_b(2, 2, 4)));
  EXPECT_EQ(found.at(1).stages[0].once_s, 12);
  EXPECT_EQ(found.at(1).step_s, (12 + 3) + 3 * (12 + 3));
  EXPECT_EQ(found.at(2).step_s, 2 * (12 + 3) + 3 * (12 + 3));
}

TEST(StageSearch, RecomputesWhereMoreIsInFlight) {
  Chain chain(12, {1}, 10);
  chain.shapes[0].budget_bytes = 90;
  const SearchResult result = search_stages(chain.shapes, one_f_one_b(2, 2, 100));
  EXPECT_EQ(result.found[0].points, (std::vector<int>{0, 5, 12}));  // as in cut_stages_test.cpp
  EXPECT_EQ(result.found[0].stages[0].cost.recomputed, 1);
  EXPECT_EQ(result.found[0].stages[1].cost.recomputed, 0);
}

TEST(StageSearch, NamesWhatWouldFit) {
  Chain chain(8, {1}, 10);
  chain.shapes[0].budget_bytes = 45;
  SearchModel model = one_f_one_b(2, 2, 8);
  model.recompute = RecomputeKind::kNone;
  EXPECT_TRUE(search_stages(chain.shapes, model).found.empty());
  const SearchRemedies found = search_remedies(chain.shapes, model);
  EXPECT_TRUE(found.recompute);
  EXPECT_EQ(found.in_flight, 1);
  EXPECT_EQ(found.stages, 0);
  chain.shapes.push_back(chain.shapes[0]);
  chain.shapes[1].devices = 2;
  chain.shapes[1].budget_bytes = 90;
  EXPECT_EQ(search_remedies(chain.shapes, model, {.stages = 2}).stages, 1);
}

TEST(StageSearch, TakesLargeSearches) {
  Chain chain(120, {1, 2, 4, 8}, 10, 1, 8);
  for (StageShape& shape : chain.shapes) shape.budget_bytes = 400, shape.bytes_per_s = 100;
  SearchModel model = one_f_one_b(32, 32, 32);
  model.tolerance = 0.01;
  const SearchResult result = search_stages(chain.shapes, model);
  ASSERT_FALSE(result.found.empty());
  EXPECT_LE(result.found[0].step_s * 0.99, result.bound_s * (1 + 1e-6));
  // 120 nodes of 12 s on 32 devices: 45 s a micro-batch at least.
  EXPECT_GE(result.found[0].bottleneck_s, 45);
}

TEST(StageSearch, RefusesWhatCannotBe) {
  const Chain chain(4, {1, 2}), other(5, {1});
  const SearchModel model = one_f_one_b(4, 3, 8);
  const auto refuses = [](const std::vector<StageShape>& shapes, const SearchModel& one, const Pinned& pinned) {
    EXPECT_THROW(search_stages(shapes, one, pinned), std::invalid_argument);
  };
  refuses({}, model, {});
  refuses({{.devices = 1}}, model, {});
  refuses({chain.shapes[0], other.shapes[0]}, model, {});
  StageShape shape = chain.shapes[0];
  shape.devices = 5;
  refuses({shape}, model, {});
  shape = chain.shapes[0], shape.may_begin = {true};
  refuses({shape}, model, {});
  shape = chain.shapes[0], shape.budget_bytes = 0;
  refuses({shape}, model, {});
  SearchModel wrong = model;
  wrong.in_flight.pop_back();
  refuses(chain.shapes, wrong, {});
  wrong = model, wrong.tolerance = 1;
  refuses(chain.shapes, wrong, {});
  wrong = model, wrong.recompute = RecomputeKind::kShares;
  refuses(chain.shapes, wrong, {});
  refuses(chain.shapes, model, {.boundaries = {2, 2}});
  refuses(chain.shapes, model, {.boundaries = {4}});
  refuses(chain.shapes, model, {.stages = 4});
  refuses(chain.shapes, model, {.stages = 2, .shapes = {0}});
  refuses(chain.shapes, model, {.stages = 1, .shapes = {2}});
  EXPECT_THROW(least_missing({chain.shapes[1]}, one_f_one_b(3, 3, 8)), std::invalid_argument);
}

}  // namespace
}  // namespace merak::planner
