#include "pipeline/csv.h"

#include <gtest/gtest.h>

#include "pipeline/check.h"
#include "pipeline/lists.h"
#include "pipeline/make.h"

namespace merak::pipeline {
namespace {

void expect_refused(const std::string& text, const std::string& why) {
  try {
    read_csv(text);
    FAIL() << text;
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
  }
}

TEST(Csv, SkipsEmptyCellsAndTakesBothEndsOfLines) {
  const Csv csv = read_csv("0F0,,0F1,0B0,,0B1\r\n,1F0,1B0,1F1,1B1\r\n");
  EXPECT_EQ(lists_of(csv.schedule), (Lists{"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}));
  EXPECT_EQ(csv.schedule.rank_of_stage, (std::vector<int>{0, 1}));
  EXPECT_EQ(csv.schedule.microbatches, 2);
  EXPECT_EQ(csv.schedule.edges, chain(2));
  EXPECT_TRUE(csv.notes.empty());
}

TEST(Csv, ReadsWhatItWritesOfAllKinds) {
  for (const std::string& kind : schedule_kinds()) {
    const int of_rank = kind == "zbv" ? 2 : 1;
    for (bool recomputes : {false, true}) {
      Extras extras{.recompute = std::vector<bool>(4 * of_rank, recomputes), .edges = chain(4 * of_rank)};
      const Schedule schedule = complete(compute_order({kind, 4 * of_rank, 4, 6}), extras);
      EXPECT_EQ(read_csv(write_csv(schedule)).schedule, schedule) << kind;
    }
  }
}

TEST(Csv, ReadsEdgesThatSkipStages) {
  Extras extras{.recompute = {}, .edges = {{0, 1}, {0, 2, false}, {1, 2}}};
  const Schedule schedule = complete(compute_order({"1f1b", 3, 3, 4}), extras);
  EXPECT_EQ(read_csv(write_csv(schedule)).schedule, schedule);
}

TEST(Csv, PutsTheWaitsInThatTorchLeavesOut) {
  const Csv csv = read_csv(
      "0UNSHARD,0F0,0SEND_F0,0RECV_B0,0B0,0REDUCE_GRAD,0WAIT_REDUCE_GRAD,0WAIT_SEND_F0,0RESHARD\n"
      "1UNSHARD,1RECV_F0,1F0,1B0,1SEND_B0,1REDUCE_GRAD,1WAIT_REDUCE_GRAD,1WAIT_SEND_B0,1RESHARD\n");
  EXPECT_EQ(lists_of(csv.schedule), (Lists{"0F0 0SEND_F0 0RECV_B0 0WAIT_B0 0B0 0REDUCE_GRAD",
                                           "1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0 1REDUCE_GRAD"}));
  EXPECT_EQ(csv.notes,
            (std::vector<std::string>{"left out 2 RESHARD", "left out 2 UNSHARD", "left out 2 WAIT_REDUCE_GRAD",
                                      "left out 1 WAIT_SEND_B", "left out 1 WAIT_SEND_F"}));
  EXPECT_TRUE(check(csv.schedule).empty());
}

TEST(Csv, KeepsPairsThatOverlap) {
  const std::string text = "0F0,(0F1;0B0)OVERLAP_F_B,0B1\n";
  const Schedule schedule = read_csv(text).schedule;
  EXPECT_EQ(lists_of(schedule), Lists{"0F0 0F1 0B0 0B1"});
  EXPECT_TRUE(schedule.ranks[0][1].overlaps_next);
  EXPECT_EQ(write_csv(schedule), text);
}

TEST(Csv, WritesWhatTorchCanRun) {
  Extras extras{.recompute = {}, .edges = chain(2), .receives_ahead = 0};
  const Schedule schedule = complete(compute_order({"1f1b", 2, 2, 1}), extras);
  EXPECT_EQ(write_torch_csv(schedule, false), "0F0,0B0\n1F0,1B0\n");
  EXPECT_EQ(write_torch_csv(schedule, true),
            "0F0,0SEND_F0,0RECV_B0,0B0,0REDUCE_GRAD,0WAIT_REDUCE_GRAD,0WAIT_SEND_F0\n"
            "1RECV_F0,1F0,1B0,1SEND_B0,1REDUCE_GRAD,1WAIT_REDUCE_GRAD,1WAIT_SEND_B0\n");
  EXPECT_THROW(write_torch_csv(listed({"0F0 0R0 0B0"}), false), std::invalid_argument);
  Schedule skips = listed({"0F0 0B0", "1F0 1B0", "2F0 2B0"});
  skips.edges = {{0, 1}, {0, 2}, {1, 2}};
  EXPECT_THROW(write_torch_csv(skips, false), std::invalid_argument);
}

TEST(Csv, RefusesHostileText) {
  expect_refused("", "without actions");
  expect_refused("\n\n,,\n", "without actions");
  expect_refused("0F0,hello", "row 1, cell 2: 'hello' is no action");
  expect_refused("0F0\n0F1,0UNSHARD7x", "row 2, cell 2");
  expect_refused("0F1000000", "1000001 micro-batches, but only 1 actions");
  expect_refused("4000F0", "4001 stages and 1 micro-batches, but only 1 actions");
  expect_refused("0F0,0B0,0F0,0B0\n0F0", "the stage is on rank 0");
  expect_refused("0F1073741824", "but only 1 actions");
  expect_refused("1073741824F0", "but only 1 actions");
  expect_refused("0F2147483647", "is no action");
  expect_refused("2147483647SEND_F0", "is no action");
  expect_refused("0REDUCE_GRAD", "0 micro-batches");
  expect_refused("1F0,1B0", "stage 0 has no actions");
  expect_refused("(0F0;0B0", "is no pair");
  expect_refused("(0F0)OVERLAP_F_B", "is no action");
  expect_refused("(0SEND_F0;0B0)OVERLAP_F_B", "only computing overlaps");
  expect_refused("0B0,(0F0;0UNSHARD)OVERLAP_F_B", "only computing overlaps");
  expect_refused("0F0,0SEND_F0>-1", "is no action");
  expect_refused("0F0,0SEND_F0,0B0", "the other end");
  expect_refused(std::string("0F0,\0\xff", 6), "is no action");
  expect_refused(std::string(100000, '\n') + "0F0", "more rows");
}

}  // namespace
}  // namespace merak::pipeline
