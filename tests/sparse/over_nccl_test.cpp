// The exact methods as a device issues them: dealt into rounds, carried out by ranks that are threads over an NCCL in
// memory, which matches by order alone.

#include <chrono>
#include <exception>
#include <thread>

#include "sparse/harness.h"
#include "sparse/plan.h"
#include "transport/fake_nccl.h"
#include "transport/nccl_programs.h"
#include "transport/rounds_checks.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

const NcclApi kApi = FakeNccl::api();

DeviceWork work_on_cpu(const Reducer& reducer) {
  DeviceWork work;
  work.reduce = [reducer](std::byte* at, const std::byte* from, std::size_t bytes, bool completes, void*) {
    const std::size_t count = bytes / reducer.element_bytes;
    reducer.combine(at, from, count);
    if (completes && reducer.divide) reducer.divide(at, count, reducer.divisor);
  };
  work.copy = [](std::byte* at, const std::byte* from, std::size_t bytes, void*) { std::memcpy(at, from, bytes); };
  work.sum_rows = [reducer](std::byte* at, const std::byte* from, const RowSums& sums, std::uint32_t, bool completes,
                            void*) { reducer.sum_rows(at, from, sums, completes ? reducer.divisor : 1); };
  return work;
}

void run_over_nccl(const std::vector<Program>& programs, const std::vector<Rounds>& rounds, std::vector<Memory>& memory,
                   const DeviceWork& work) {
  const int size = static_cast<int>(programs.size());
  FakeNccl nccl(size);
  std::vector<std::exception_ptr> errors(programs.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      try {
        NcclCommunicator communicator(kApi, nccl.id(), rank, size, 30s);
        std::vector<std::byte> scratch(scratch_bytes(programs[rank]));
        NcclCalls calls(communicator, work, nullptr, 30s);
        issue(programs[rank], rounds[rank], {memory[rank].input.data(), memory[rank].output.data(), scratch.data()},
              calls);
      } catch (...) {
        errors[rank] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

TEST(SparseOverNccl, EveryMethod) {
  for (unsigned seed = 0; seed < 60; ++seed)
    for (Method method : {Method::kGather, Method::kBalanced, Method::kPacked, Method::kDense}) {
      SCOPED_TRACE(std::string(name(method)) + ", seed " + std::to_string(seed));
      const Case one = random_case(seed, true);
      const Known known = exchanged(one);
      const Shape shape{one.table_rows, one.columns * sizeof(float), sizeof(float)};
      const Topology topology = uniform_topology(one.size);
      const TablePlan plan = plan_table(known.rows, shape, method, topology, {});
      std::vector<Program> programs;
      std::vector<Memory> memory;
      for (const Contributions& mine : contributions_of(one, known, false)) {
        programs.push_back(program_of(plan, mine, shape, topology, {}));
        memory.push_back({bytes_of(one.of_rank[static_cast<std::size_t>(mine.rank)].values),
                          Message(known.rows.rows() * shape.row_bytes)});
      }
      const std::vector<Rounds> rounds = nccl_rounds(programs);
      expect_good_rounds(programs, rounds, kRouteBytes);
      const Reducer reducer = make_sparse_reducer(DType::kFloat32, Reduction::kAverage, one.size);
      ASSERT_NO_THROW(run_over_nccl(programs, rounds, memory, work_on_cpu(reducer)));
      const Message expected = bytes_of(expected_sums(one, known.rows, one.size));
      for (int rank = 0; rank < one.size; ++rank) ASSERT_EQ(memory[rank].output, expected) << "rank " << rank;
    }
}

}  // namespace
}  // namespace merak
