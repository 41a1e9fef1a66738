// Plans as programs: proved by the validator, and played with real bytes against what every rank must have.

#include "resharding/programs.h"

#include <gtest/gtest.h>

#include <set>

#include "collectives/kernels.h"
#include "resharding/local_tensors.h"
#include "resharding/moved_tensors.h"
#include "transport/play.h"
#include "transport/validate.h"

namespace merak {
namespace {

std::vector<std::size_t> bytes_leaving(const std::vector<Program>& programs, const Network& network) {
  std::vector<std::size_t> bytes(network.hosts.size(), 0);
  for (std::size_t rank = 0; rank < programs.size(); ++rank)
    for (const Step& step : programs[rank].steps)
      if (step.kind == StepKind::kSend && network.host_of[step.peer] != network.host_of[rank])
        bytes[network.host_of[rank]] += step.bytes;
  return bytes;
}

std::vector<std::size_t> bytes_leaving(const ReshardPlan& plan, const Network& network) {
  std::vector<std::size_t> bytes(network.hosts.size(), 0);
  const auto add = [&](int from, int to, std::size_t more) {
    if (network.host_of[from] != network.host_of[to]) bytes[network.host_of[from]] += more;
  };
  for (const Transfer& transfer : plan.transfers) {
    const std::vector<int>& chain = transfer.relay.reduce_chain;
    for (std::size_t i = 1; i < chain.size(); ++i) add(chain[i - 1], chain[i], transfer.bytes());
    for (Hop hop : transfer.relay.hops) add(hop.from, hop.to, transfer.bytes());
  }
  return bytes;
}

std::size_t scratch_of(const Program& program) {
  std::size_t bytes = 0;
  for (std::size_t buffer : program.scratch) bytes += buffer;
  return bytes;
}

struct Seen {  // by all cases together
  std::set<StepKind> kinds;
  std::size_t direct_sends = 0, direct_receives = 0, divisions = 0, zeroed = 0, full_scratch = 0;
};

void check(const MoveBatch& batch, const Network& network, const ReshardPlan& plan, std::size_t cap, unsigned seed,
           Seen& seen) {
  const int ranks = network.ranks();
  const MovedTensors wanted(batch, ranks);
  std::vector<Program> programs;
  std::vector<BufferSizes> buffers;
  for (int rank = 0; rank < ranks; ++rank) {
    programs.push_back(reshard_program(plan, batch, network.host_of, rank, cap));
    buffers.push_back({source_tensors(batch, rank).bytes(), target_tensors(batch, rank).bytes()});
    const Memory& memory = wanted.expected()[static_cast<std::size_t>(rank)];
    ASSERT_EQ(buffers.back().input, memory.input.size());
    ASSERT_EQ(buffers.back().output, memory.output.size());
    ASSERT_LE(scratch_of(programs.back()), cap);
    seen.full_scratch += scratch_of(programs.back()) == cap;
    seen.zeroed += zeroed_tensors(batch, rank).size();
    for (const Step& step : programs.back().steps) {
      seen.kinds.insert(step.kind);
      seen.direct_sends += step.kind == StepKind::kSend && step.at.buffer == kInput;
      seen.direct_receives += step.kind == StepKind::kReceive && step.at.buffer == kOutput;
      seen.divisions += step.completes;
    }
  }
  ASSERT_NO_THROW(validate(programs, buffers));
  EXPECT_EQ(bytes_leaving(programs, network), bytes_leaving(plan, network));
  Reducer reducer;
  if (const std::optional<ReducedAs> as = reduced_as(batch))
    reducer = make_reducer(as->dtype, as->reduction, as->divisor);
  for (unsigned order = 0; order < 2; ++order) {
    std::vector<Memory> memory = wanted.before();
    play(programs, memory, reducer, 2 * seed + order);
    for (std::size_t rank = 0; rank < memory.size(); ++rank)
      ASSERT_EQ(memory[rank].output, wanted.expected()[rank].output) << "rank " << rank;
  }
}

// Few segments of each transfer: the validator remembers for every step which ones are done before it.
std::size_t random_segment(RandomMoves& random, std::size_t bytes) {
  const std::size_t segments = random.draw(1, 10);
  return (std::max<std::size_t>(bytes / segments, 1) + kPayloadUnit - 1) / kPayloadUnit * kPayloadUnit;
}

TEST(ReshardPrograms, OfRandomBatchesBringEveryByte) {
  Seen seen;
  std::size_t cases = 0;
  for (unsigned seed = 0; seed < 600 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const int ranks = 1 + static_cast<int>(seed % 8);
    RandomMoves random(seed, ranks);
    const std::optional<MoveBatch> batch = random_batch(random);
    if (!batch) continue;
    const Network network = random.network();
    ReshardPlan plan = make_plan(*batch, network);
    std::size_t largest = 0;
    for (Transfer& transfer : plan.transfers) {
      transfer.segment_bytes = random_segment(random, transfer.bytes());
      largest = std::max(largest, transfer.bytes());
    }
    plan.chosen.in_flight = 1 << random.draw(0, 3);
    const std::size_t cap = std::max(kLeastStagingBytes, random_segment(random, largest) * random.draw(6, 40));
    check(*batch, network, plan, cap, seed, seen);
    ++cases;
  }
  EXPECT_GE(cases, 400u);
  EXPECT_EQ(seen.kinds, (std::set<StepKind>{StepKind::kSend, StepKind::kReceive, StepKind::kReduce, StepKind::kCopy,
                                            StepKind::kCopyStrided}));
  EXPECT_GT(seen.direct_sends, 0u);
  EXPECT_GT(seen.direct_receives, 0u);
  EXPECT_GT(seen.divisions, 0u);
  EXPECT_GT(seen.zeroed, 0u);
}

Layout line(std::vector<int> ranks, Placement placement) {
  return {.mesh_shape = {static_cast<int>(ranks.size())}, .ranks = std::move(ranks), .placements = {placement}};
}

TEST(ReshardPrograms, NeedNoMemoryWhereAllIsContiguous) {
  const MoveBatch batch = cut({{{64}, DType::kFloat32, line({0, 1}, shard(0)), line({2, 3, 4}, replicate())}});
  const Network network = uniform_network(5, 1);
  const ReshardPlan plan = make_plan(batch, network);
  Seen seen;
  check(batch, network, plan, kLeastStagingBytes, 0, seen);
  for (int rank = 0; rank < 5; ++rank)
    EXPECT_TRUE(reshard_program(plan, batch, network.host_of, rank, kLeastStagingBytes).scratch.empty());
  EXPECT_EQ(seen.kinds, (std::set<StepKind>{StepKind::kSend, StepKind::kReceive}));
}

TEST(ReshardPrograms, CopyInOneStepWhatARankHolds) {
  const MoveBatch batch = cut({{{8, 6}, DType::kInt16, line({0, 1}, replicate()), line({0, 1}, shard(1))}});
  const Program program = reshard_program(make_plan(batch, uniform_network(2, 1)), batch, {0, 1}, 1, 96);
  Program expected;
  StridedCopy copy;
  copy.piece_bytes = 6;
  copy.add_outer({8, 6, 12});
  expected.copy_strided({kOutput, 0}, {kInput, 6}, copy);
  EXPECT_EQ(program, expected);
}

TEST(ReshardPrograms, KeepTransfersInFlight) {
  // Four tensors from rank 0, each to a rank of its own: the third waits for the first, the fourth for the second.
  std::vector<Move> moves;
  for (int to = 1; to <= 4; ++to)
    moves.push_back({{16}, DType::kFloat32, line({0}, replicate()), line({to}, replicate())});
  const MoveBatch batch = cut(moves);
  ReshardPlan plan = make_plan(batch, uniform_network(5, 1));
  ASSERT_EQ(plan.transfers.size(), 4u);
  for (Transfer& transfer : plan.transfers) transfer.segment_bytes = 64;
  plan.chosen.in_flight = 2;
  const Program program = reshard_program(plan, batch, {0, 1, 2, 3, 4}, 0, 1024);
  ASSERT_EQ(program.steps.size(), 4u);
  for (std::uint32_t i = 0; i < 4; ++i)
    EXPECT_EQ(program.steps[i].after, i < 2 ? std::vector<std::uint32_t>{} : std::vector<std::uint32_t>{i - 2});
  const Program inside = reshard_program(plan, batch, {0, 0, 0, 0, 0}, 0, 1024);
  for (const Step& step : inside.steps) EXPECT_TRUE(step.after.empty()) << "what stays inside a host waits for nobody";
}

TEST(ReshardPrograms, RefuseTooLittleMemory) {
  const MoveBatch batch = cut({{{64}, DType::kFloat32, line({0}, replicate()), line({1}, replicate())}});
  const ReshardPlan plan = make_plan(batch, uniform_network(2, 1));
  EXPECT_THROW(reshard_program(plan, batch, {0, 1}, 0, kLeastStagingBytes - 1), std::invalid_argument);
  EXPECT_NO_THROW(reshard_program(plan, batch, {0, 1}, 0, kLeastStagingBytes));
}

TEST(ReducedAs, TakesOneKindAndSumsBesideAverages) {
  const auto move = [](DType dtype, Reduction reduction) {
    return Move{{4}, dtype, line({0, 1}, partial(reduction)), line({0, 1}, replicate())};
  };
  const auto as = [](std::vector<Move> moves) { return reduced_as(cut(std::move(moves))); };
  const Move plain = {{4}, DType::kInt8, line({0, 1}, shard(0)), line({0, 1}, replicate())};
  const Move sum = move(DType::kFloat32, Reduction::kSum), average = move(DType::kFloat32, Reduction::kAverage);
  EXPECT_EQ(as({plain}), std::nullopt);
  EXPECT_EQ(as({plain, sum}), (ReducedAs{DType::kFloat32, Reduction::kSum, 1}));
  for (const auto& both : {std::vector{sum, average}, std::vector{average, plain, sum}})
    EXPECT_EQ(as(both), (ReducedAs{DType::kFloat32, Reduction::kAverage, 2}));
  EXPECT_THROW(as({sum, move(DType::kFloat64, Reduction::kSum)}), std::invalid_argument);
  EXPECT_THROW(as({sum, move(DType::kFloat32, Reduction::kMax)}), std::invalid_argument);
}

}  // namespace
}  // namespace merak
