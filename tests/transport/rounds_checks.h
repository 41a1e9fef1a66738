#pragma once
// What nccl_rounds.h promises, checked on the rounds of all ranks.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "transport/event_graph.h"
#include "transport/nccl_rounds.h"

namespace merak {

// By rank and step: when it is issued, work of round r at 2r and its messages at 2r + 1. Checks that each step is
// issued once, and after what it comes after.
inline std::vector<std::vector<std::int64_t>> times_of(const std::vector<Program>& programs,
                                                       const std::vector<Rounds>& rounds) {
  std::vector<std::vector<std::int64_t>> times;
  for (std::size_t rank = 0; rank < programs.size(); ++rank) {
    const std::vector<Step>& steps = programs[rank].steps;
    times.emplace_back(steps.size(), -1);
    std::vector<std::int64_t>& mine = times.back();
    const auto issue = [&](std::uint32_t index, std::int64_t time, bool is_message) {
      EXPECT_EQ(mine.at(index), -1) << "issued twice: rank " << rank << ", step " << index;
      const StepKind kind = steps[index].kind;
      EXPECT_EQ(kind == StepKind::kSend || kind == StepKind::kReceive, is_message);
      mine[index] = time;
      for (std::uint32_t before : steps[index].after)
        EXPECT_TRUE(mine[before] >= 0 && (mine[before] < time || !is_message))
            << "issued too early: rank " << rank << ", step " << index;
    };
    for (const Round& round : rounds.at(rank)) {
      for (std::uint32_t index : round.work) issue(index, 2 * std::int64_t{round.number}, false);
      for (std::uint32_t index : round.messages) issue(index, 2 * std::int64_t{round.number} + 1, true);
    }
    for (std::int64_t time : mine) EXPECT_GE(time, 0) << "never issued, rank " << rank;
  }
  return times;
}

// Checks, too, that both ends of each message are in one round, in the same order on each route, and that no round
// carries more than a route's share.
inline void expect_good_rounds(const std::vector<Program>& programs, const std::vector<Rounds>& rounds,
                               std::size_t route_bytes) {
  ASSERT_EQ(rounds.size(), programs.size());
  const std::vector<std::vector<std::int64_t>> times = times_of(programs, rounds);
  Routes receives = routes_of(programs, StepKind::kReceive);
  for (const auto& [route, sends] : routes_of(programs, StepKind::kSend)) {
    std::map<std::int64_t, std::vector<std::size_t>> loads;  // by time: the bytes of each message
    for (std::size_t i = 0; i < sends.size(); ++i) {
      const std::int64_t time = times[route.from][sends[i]];
      EXPECT_EQ(time, times[route.to][receives[route][i]]) << "ends apart: " << route.from << " to " << route.to;
      const std::size_t bytes = programs[route.from].steps[sends[i]].bytes;
      if (bytes > 0) loads[time].push_back(bytes);
    }
    for (const auto& [time, load] : loads) {
      std::size_t total = 0;
      for (std::size_t bytes : load) total += bytes;
      EXPECT_TRUE(load.size() == 1 || total <= route_bytes) << total << " bytes in one round";
    }
  }
  for (const Rounds& mine : rounds)
    for (std::size_t i = 0; i < mine.size(); ++i) {
      EXPECT_TRUE(std::is_sorted(mine[i].work.begin(), mine[i].work.end()));
      EXPECT_TRUE(std::is_sorted(mine[i].messages.begin(), mine[i].messages.end()));
      if (i > 0) {
        EXPECT_LT(mine[i - 1].number, mine[i].number);
      }
    }
}

}  // namespace merak
