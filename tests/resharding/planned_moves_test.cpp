// Plans that are ready to be carried out: parts, plans that come from outside, names for errors; and every program as a
// device issues it.

#include "resharding/planned_moves.h"

#include <gtest/gtest.h>

#include "collectives/kernels.h"
#include "collectives/over_nccl.h"
#include "resharding/oracle.h"
#include "transport/rounds_checks.h"

namespace merak {
namespace {

Layout line(std::vector<int> ranks, Placement placement) {
  return {.mesh_shape = {static_cast<int>(ranks.size())}, .ranks = std::move(ranks), .placements = {placement}};
}

NamedMove sum(const char* name, DType dtype, Reduction reduction, std::vector<int> from = {0, 1}) {
  return {name, {{8}, dtype, line(std::move(from), partial(reduction)), line({2}, replicate())}};
}

NamedMove plain(const char* name) {
  return {name, {{64, 64}, DType::kInt8, line({0, 1}, shard(0)), line({2, 3}, shard(1))}};
}

TEST(PlannedMoves, AreOnePartPerWayToReduce) {
  const PlannedMoves planned(
      {sum("a", DType::kFloat32, Reduction::kSum), plain("b"), sum("c", DType::kFloat32, Reduction::kMax),
       sum("d", DType::kFloat32, Reduction::kSum), sum("e", DType::kFloat32, Reduction::kAverage),
       sum("f", DType::kFloat32, Reduction::kAverage, {0, 1, 3})},
      uniform_network(4, 1), 1024);
  std::vector<std::vector<std::uint32_t>> moves;
  for (const auto& part : planned.parts()) moves.push_back(part.moves);
  EXPECT_EQ(moves, (std::vector<std::vector<std::uint32_t>>{{0, 1, 3}, {2}, {4}, {5}}));
  EXPECT_EQ(planned.parts()[3].reduced, (ReducedAs{DType::kFloat32, Reduction::kAverage, 3}));
  EXPECT_GT(planned.seconds(), 0);
  EXPECT_GE(planned.seconds(), planned.bound_s());
}

TEST(PlannedMoves, OfNothingAreOnePart) {
  const PlannedMoves planned({}, uniform_network(2, 1), 1024);
  ASSERT_EQ(planned.parts().size(), 1u);
  EXPECT_EQ(planned.program(0, 1)->size(), 0u);
}

TEST(PlannedMoves, TakePlansThatBringEveryByteAndNoOthers) {
  const std::vector<NamedMove> moves = {plain("w")};
  const Network network = uniform_network(4, 1);
  const PlannedMoves made(moves, network, 1024);
  const ReshardPlan plan = made.parts()[0].plan;
  const PlannedMoves taken(moves, network, 1024, {plan});
  EXPECT_EQ(taken.statement(), made.statement());
  EXPECT_EQ(taken.program(0, 2)->program(), made.program(0, 2)->program());
  EXPECT_THROW(PlannedMoves(moves, network, 1024, std::vector<ReshardPlan>{}), std::invalid_argument);
  ReshardPlan lacking = plan;
  lacking.transfers.pop_back();
  EXPECT_THROW(PlannedMoves(moves, network, 1024, {lacking}), std::invalid_argument);
  ReshardPlan astray = plan;
  astray.transfers.front().bucket = 99;
  EXPECT_THROW(PlannedMoves(moves, network, 1024, {astray}), std::invalid_argument);
  ReshardPlan headless = plan;
  headless.transfers.front().relay.reduce_chain.clear();
  EXPECT_THROW(PlannedMoves(moves, network, 1024, {headless}), std::invalid_argument);
}

TEST(PlannedMoves, SayWhatAStepCarries) {
  const PlannedMoves planned({plain("w"), plain("v"), plain("u"), plain("t")}, uniform_network(4, 1), 4096);
  const Program& program = planned.program(0, 2)->program();
  for (std::uint32_t step = 0; step < program.steps.size(); ++step) {
    const std::string text = planned.carried_by(0, 2, step);
    EXPECT_NE(text.find("' in transfer"), 0u);
    EXPECT_NE(text.find(", bytes "), std::string::npos) << text;
    EXPECT_EQ(text.front(), '\'') << text;
  }
  const PlannedMoves copied({{"w", {{4}, DType::kInt8, line({0}, replicate()), line({0}, replicate())}}},
                            uniform_network(1, 1), 1024);
  EXPECT_EQ(copied.carried_by(0, 0, 0), "a copy of its own");
}

TEST(PlannedMoves, CountWhatCrossesEachLink) {
  const Network network = uniform_network(2, 2);
  const PlannedMoves planned({{"w", {{1 << 20}, DType::kInt8, line({0}, replicate()), line({2, 3}, replicate())}}},
                             network, 1024);
  const HostTraffic traffic = host_traffic(planned.parts()[0].plan, network);
  EXPECT_EQ(traffic.out, (std::vector<std::size_t>{1 << 20, 0}));
  EXPECT_EQ(traffic.in, (std::vector<std::size_t>{0, 1 << 20}));
}

// Ranks' tensors full of what tells them apart.
std::vector<Memory> memory_of(const PlannedMoves::Part& part, int ranks) {
  std::vector<Memory> memory(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    Memory& one = memory[static_cast<std::size_t>(rank)];
    one.input.resize(source_tensors(part.batch, rank).bytes());
    one.output.resize(target_tensors(part.batch, rank).bytes());
    for (std::size_t i = 0; i < one.input.size(); ++i)
      one.input[i] = static_cast<std::byte>(part.reduced ? 0 : 7 * i + 31 * static_cast<std::size_t>(rank));
  }
  return memory;
}

TEST(ReshardOverNccl, GivesTheSameBytesAsTheEngine) {
  std::size_t cases = 0;
  for (unsigned seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const int ranks = 2 + static_cast<int>(seed % 5);
    RandomMoves random(seed, ranks);
    std::vector<NamedMove> moves;
    for (std::size_t i = random.draw(1, 3); i > 0; --i) moves.push_back({"w" + std::to_string(i), random.move()});
    const PlannedMoves planned(moves, random.network(), random.draw(96, 4096));
    for (std::size_t p = 0; p < planned.parts().size(); ++p) {
      const PlannedMoves::Part& part = planned.parts()[p];
      std::vector<Program> programs;
      for (int rank = 0; rank < ranks; ++rank) programs.push_back(planned.program(p, rank)->program());
      const std::vector<Rounds> rounds = nccl_rounds(programs, 1000);
      expect_good_rounds(programs, rounds, 1000);
      EXPECT_EQ(*planned.rounds(p, 1), nccl_rounds(programs)[1]);
      Reducer reducer;
      if (part.reduced && part.reduced->dtype == DType::kFloat32)
        reducer = make_reducer(part.reduced->dtype, part.reduced->reduction, part.reduced->divisor);
      else if (part.reduced)
        continue;  // RandomMoves also reduces what has no sum
      std::vector<Memory> engines = memory_of(part, ranks), devices = engines;
      play(programs, engines, reducer, seed);
      ASSERT_NO_THROW(run_over_nccl(programs, rounds, devices, work_on_cpu(reducer)));
      for (int rank = 0; rank < ranks; ++rank) ASSERT_EQ(devices[rank].output, engines[rank].output) << "rank " << rank;
      ++cases;
    }
  }
  EXPECT_GT(cases, 100u);
}

}  // namespace
}  // namespace merak
