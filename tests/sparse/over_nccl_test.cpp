// The exact methods as a device issues them: dealt into rounds, carried out by ranks that are threads over an NCCL in
// memory, which matches by order alone.

#include "collectives/over_nccl.h"

#include "sparse/harness.h"
#include "sparse/plan.h"
#include "transport/rounds_checks.h"

namespace merak {
namespace {

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
        programs.push_back(program_of(plan, mine, shape, topology));
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
