#include "sparse/balanced.h"

#include "sparse/harness.h"

namespace merak {
namespace {

TEST(Balanced, IsTheSumInTheOrderOfRanks) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Case one = random_case(seed, false);
    const Known known = exchanged(one);
    const Deal dealt = deal(known.rows);
    std::vector<Program> programs;
    for (const Contributions& mine : contributions_of(one, known, seed % 2 == 1))
      programs.push_back(balanced_all_reduce(mine, dealt, 1 + seed % 7 * mine.row_bytes));
    expect_sums(one, known, programs, seed % 2 == 1, seed);
    for (int rank = 0; rank < one.size; ++rank) {
      const std::size_t row_bytes = one.columns * sizeof(float);
      EXPECT_EQ(programs[rank].bytes_of(StepKind::kSend), dealt.out[rank] * row_bytes);
      EXPECT_EQ(programs[rank].bytes_of(StepKind::kReceive), dealt.in[rank] * row_bytes);
    }
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace merak
