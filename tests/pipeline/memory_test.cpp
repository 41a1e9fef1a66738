#include "pipeline/memory.h"

#include <gtest/gtest.h>

#include "pipeline/communication.h"
#include "pipeline/eager.h"
#include "pipeline/gpipe.h"
#include "pipeline/lists.h"
#include "pipeline/one_f_one_b.h"
#include "pipeline/zero_bubble.h"

namespace merak::pipeline {
namespace {

std::vector<int> activations(const Schedule& schedule) {
  std::vector<int> counts;
  for (const Peak& peak :
       peak_memory(schedule, std::vector<StageBytes>(schedule.stages()), std::vector<double>(schedule.edges.size()))
           .ranks)
    counts.push_back(peak.activations);
  return counts;
}

TEST(Memory, CountsTheMicrobatchesThatAreAlive) {
  EXPECT_EQ(activations(gpipe(4, 8)), (std::vector<int>{8, 8, 8, 8}));
  EXPECT_EQ(activations(one_f_one_b(4, 8)), (std::vector<int>{4, 3, 2, 1}));
  EXPECT_EQ(activations(one_f_one_b(4, 2)), (std::vector<int>{2, 2, 2, 1}));
  EXPECT_EQ(activations(eager(4, 8)), (std::vector<int>{7, 5, 3, 1}));
  EXPECT_EQ(activations(zero_bubble(4, 4, 8)), (std::vector<int>{4, 4, 4, 4}));  // of 4, until W
}

TEST(Memory, CountsCheckpointsApart) {
  const Schedule schedule = listed({"0F0 0F1 0F2 0R0 0B0 0R1 0B1 0R2 0B2"});
  const Peak peak = peak_memory(schedule, {{.fixed = 100, .activation = 10, .checkpoint = 1}}, {}).ranks[0];
  EXPECT_EQ(peak.activations, 1);
  EXPECT_EQ(peak.checkpoints, 3);
  EXPECT_EQ(peak.bytes, 100 + 10 + 2);
}

TEST(Memory, CountsBuffersFromTheReceiveToTheEndOfTheConsumer) {
  const Schedule schedule = listed({"0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0RECV_B1 0WAIT_B0 0B0 0WAIT_B1 0B1",
                                    "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0 1RECV_F1 1WAIT_F1 1F1 1B1 1SEND_B1"});
  const PeakMemory peaks = peak_memory(schedule, {{.activation = 10}, {.activation = 10}}, {3});
  EXPECT_EQ(peaks.ranks[0].receives, 2);
  EXPECT_EQ(peaks.ranks[0].bytes, 2 * 10 + 2 * 3);
  EXPECT_EQ(peaks.ranks[1].receives, 1);
  EXPECT_EQ(peaks.ranks[1].bytes, 10 + 3);
  EXPECT_EQ(peaks.stages[0].bytes, 20);
}

TEST(Memory, AddsUpTheStagesOfARank) {
  const Schedule schedule = listed({"0F0 1F0 1B0 0B0"});
  const PeakMemory peaks = peak_memory(schedule, {{.fixed = 1, .activation = 10}, {.fixed = 2, .activation = 20}}, {0});
  EXPECT_EQ(peaks.ranks[0].bytes, 33);
  EXPECT_EQ(peaks.stages[0].bytes, 11);
  EXPECT_EQ(peaks.stages[1].bytes, 22);
}

}  // namespace
}  // namespace merak::pipeline
