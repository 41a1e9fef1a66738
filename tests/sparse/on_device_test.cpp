// The whole operation on rows of a device: the acts over engines, then each rank's share over an NCCL in memory, which
// matches by order alone. The device is this CPU.

#include <memory>

#include "collectives/over_nccl.h"
#include "sparse/operations.h"

namespace merak {
namespace {

// Carries out the share of a rank whose acts are done.
void run_share(Part& part, NcclCommunicator& communicator) {
  const DeviceShare share = part.reduction.device_share();
  const Program& program = share.act.program->program();
  std::vector<std::byte> scratch(scratch_bytes(program), std::byte{0x5a});
  const DeviceWork work = work_on_cpu(share.act.reducer);
  NcclCalls calls(communicator, work, nullptr, 30s);
  issue(program, share.rounds, {share.act.input, share.act.output, scratch.data()}, calls);
}

std::vector<float> expected_result(const Case& one, How how) {
  const UnionRows rows = exchanged(one).rows;
  const std::vector<float> sums = expected_sums(one, rows, one.size);
  return how.into_table ? table_of(one, rows, sums) : sums;
}

// One operation after the other, each of several tables, in one group and with one communicator.
void expect_sums(const std::vector<std::vector<const Case*>>& operations, const std::vector<Method>& methods, How how) {
  static const NcclApi api = FakeNccl::api();
  const int size = operations.front().front()->size;
  FakeNccl nccl(size);
  on_all(size, [&](int rank, Engine& engine, Group& group) {
    NcclCommunicator communicator(api, nccl.id(), rank, size, 30s);
    for (Method method : methods)
      for (const auto& tables : operations) {
        SCOPED_TRACE(std::string(name(method)) + ", rank " + std::to_string(rank));
        Part part(tables, rank, method, how);
        const auto acts = part.start(engine, group);
        ASSERT_TRUE(acts->wait_until(Clock::now() + 60s));
        expect_no_error(*acts);
        ASSERT_NO_THROW(run_share(part, communicator));
        for (std::size_t t = 0; t < tables.size(); ++t)
          EXPECT_EQ(part.results[t], expected_result(*tables[t], how)) << "table " << t;
      }
  });
}

const std::vector<Method> kMethods = {Method::kAuto, Method::kBalanced, Method::kGather, Method::kPacked,
                                      Method::kDense};

TEST(SparseOnDevice, SeveralTablesAndOperations) {
  for (unsigned seed = 0; seed < 30; ++seed)
    for (const bool into_table : {false, true}) {
      SCOPED_TRACE("seed " + std::to_string(seed) + (into_table ? ", whole tables" : ""));
      std::vector<Case> cases = {random_case(seed, true)};
      for (unsigned other = 1000 * (seed + 1); cases.size() < 3; ++other)
        if (Case more = random_case(other, true); more.size == cases[0].size) cases.push_back(std::move(more));
      expect_sums({{&cases[0]}, {&cases[1], &cases[2]}, {&cases[2], &cases[0], &cases[1]}}, kMethods,
                  {.on_device = true, .into_table = into_table});
      if (testing::Test::HasFailure()) return;
    }
}

// What a device makes of a lossy sketch is what the engine makes of it.
TEST(SparseOnDevice, LossySketches) {
  static const NcclApi api = FakeNccl::api();
  for (unsigned seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Case one = random_case(seed, true);
    const SketchBudget budget{(1 + seed % 7) * one.columns * sizeof(float), seed, seed % 2 == 0};
    FakeNccl nccl(one.size);
    on_all(one.size, [&](int rank, Engine& engine, Group& group) {
      NcclCommunicator communicator(api, nccl.id(), rank, one.size, 30s);
      Part here(one, rank, budget), there(one, rank, budget, {.on_device = true});
      for (Part* part : {&here, &there}) {
        const auto acts = part->start(engine, group);
        ASSERT_TRUE(acts->wait_until(Clock::now() + 60s));
        expect_no_error(*acts);
      }
      ASSERT_NO_THROW(run_share(there, communicator));
      EXPECT_EQ(there.result_ids, here.result_ids);
      EXPECT_EQ(there.results, here.results);
      EXPECT_EQ(there.kept_ids, here.kept_ids);
      EXPECT_EQ(there.kept, here.kept);
    });
  }
}

// Too many rows for bitmaps in the announcement; more bytes than one round carries on a route.
TEST(SparseOnDevice, LargeTablesAndMessages) {
  Case one{.size = 3, .table_rows = 200'000, .columns = 700, .of_rank = {}};
  for (int rank = 0; rank < one.size; ++rank) {
    Contribution mine;
    for (int row = 0; row < 2000; ++row) mine.ids.push_back((row * 29 + rank * (row % 3)) % 200'000);
    for (std::size_t i = 0; i < mine.ids.size() * one.columns; ++i)
      mine.values.push_back(static_cast<float>((i + static_cast<std::size_t>(rank)) % 17));
    one.of_rank.push_back(std::move(mine));
  }
  expect_sums({{&one}}, {Method::kBalanced, Method::kGather}, {.on_device = true});
}

// Each rank knows the rounds from what was announced alone.
TEST(SparseOnDevice, RoundsAreThoseOfTheTruePrograms) {
  for (unsigned seed = 100; seed < 120; ++seed)
    for (Method method : {Method::kBalanced, Method::kGather, Method::kPacked, Method::kDense}) {
      SCOPED_TRACE(std::string(name(method)) + ", seed " + std::to_string(seed));
      const Case one = random_case(seed, true);
      std::vector<Program> programs(static_cast<std::size_t>(one.size));
      std::vector<Rounds> rounds(programs.size());
      on_all(one.size, [&](int rank, Engine& engine, Group& group) {
        Part part({&one}, rank, method, {.on_device = true});
        ASSERT_TRUE(part.start(engine, group)->wait_until(Clock::now() + 60s));
        DeviceShare share = part.reduction.device_share();
        programs[static_cast<std::size_t>(rank)] = share.act.program->program();
        rounds[static_cast<std::size_t>(rank)] = std::move(share.rounds);
      });
      EXPECT_EQ(rounds, nccl_rounds(programs));
    }
}

}  // namespace
}  // namespace merak
