// All kinds, with all passes, in all small sizes: they are right, and run in any order of events within their memory.

#include "pipeline/make.h"

#include <gtest/gtest.h>

#include "pipeline/any_order.h"
#include "pipeline/check.h"
#include "pipeline/lists.h"
#include "pipeline/memory.h"
#include "pipeline/recompute.h"

namespace merak::pipeline {
namespace {

std::vector<int> stages_a_rank(const std::string& kind) {
  if (kind == "zbv") return {2};
  if (kind == "interleaved" || kind == "looped-bfs" || kind == "zero-bubble") return {1, 2, 3};
  return {1};
}

template <class Visit>
void of_all_small_sizes(Visit visit) {
  for (const std::string& kind : schedule_kinds())
    for (int ranks = 1; ranks <= 5; ++ranks)
      for (int of_rank : stages_a_rank(kind))
        for (int microbatches = 1; microbatches <= 8; ++microbatches)
          visit(Request{kind, of_rank * ranks, ranks, microbatches});
}

std::string said(const Request& request) {
  return request.kind + " of " + std::to_string(request.stages) + " stages on " + std::to_string(request.ranks) +
         " ranks, " + std::to_string(request.microbatches) + " micro-batches";
}

// Every combination of passes, and edges that skip a stage.
std::vector<Extras> all_extras(int stages) {
  std::vector<Edge> skips = chain(stages);
  for (int stage = 0; stage + 2 < stages; ++stage) skips.push_back({stage, stage + 2, stage % 2 == 0});
  std::vector<Extras> all;
  for (const std::vector<Edge>& edges : {chain(stages), skips})
    for (int ahead : {0, 1, 2, 5})
      for (bool recomputes : {false, true})
        for (bool early : {false, true}) {
          Extras extras{.recompute = {}, .edges = edges, .receives_ahead = ahead};
          if (recomputes) extras.recompute.assign(stages, true);
          extras.early_recompute = early, extras.last_recomputes = !early;
          all.push_back(extras);
        }
  return all;
}

TEST(Make, IsRightForAllKindsAndPassesInAllSmallSizes) {
  of_all_small_sizes([](const Request& request) {
    const Schedule order = compute_order(request);
    EXPECT_EQ(check(order), std::vector<std::string>{}) << said(request);
    for (const Extras& extras : all_extras(request.stages)) {
      const Schedule schedule = complete(order, extras);
      EXPECT_EQ(check(schedule), std::vector<std::string>{}) << said(request);
      EXPECT_TRUE(receives_as_sent(schedule)) << said(request);
    }
  });
}

TEST(Make, RunsInAnyOrderOfEventsWithinItsMemory) {
  unsigned seed = 0;
  of_all_small_sizes([&](const Request& request) {
    for (const Extras& extras : all_extras(request.stages)) {
      if (seed++ % 7 != 0) continue;
      const Schedule schedule = complete(compute_order(request), extras);
      const PeakMemory peaks =
          peak_memory(schedule, std::vector<StageBytes>(schedule.stages()), std::vector<double>(schedule.edges.size()));
      const std::vector<Peak> most = AnyOrder(schedule, seed).run();
      for (std::size_t rank = 0; rank < most.size(); ++rank) {
        EXPECT_EQ(most[rank].activations, peaks.ranks[rank].activations) << said(request);
        EXPECT_EQ(most[rank].checkpoints, peaks.ranks[rank].checkpoints) << said(request);
        EXPECT_EQ(most[rank].receives, peaks.ranks[rank].receives) << said(request);
      }
    }
  });
}

TEST(Make, RefusesWhatAKindCannotHave) {
  EXPECT_THROW(compute_order({"no such", 4, 4, 8}), std::invalid_argument);
  EXPECT_THROW(compute_order({"1f1b", 8, 4, 8}), std::invalid_argument);
  EXPECT_THROW(compute_order({"zbv", 4, 4, 8}), std::invalid_argument);
  EXPECT_THROW(compute_order({"interleaved", 6, 4, 8}), std::invalid_argument);
  EXPECT_THROW(compute_order({"gpipe", 4, 4, 0}), std::invalid_argument);
}

TEST(AnyOrder, FindsADeadlockAndWhatIsUsedTooEarly) {
  const Schedule circle = listed({"0F0 0RECV_B0 0WAIT_B0 0SEND_F0 0B0", "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0"});
  EXPECT_THROW(AnyOrder(circle, 0).run(), std::runtime_error);
  const Schedule early = listed({"0F0 0SEND_F0 0RECV_B0 0WAIT_B0 0B0", "1RECV_F0 1F0 1WAIT_F0 1B0 1SEND_B0"});
  EXPECT_THROW(AnyOrder(early, 0).run(), std::runtime_error);
}

}  // namespace
}  // namespace merak::pipeline
