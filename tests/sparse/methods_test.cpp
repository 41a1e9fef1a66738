// Every exact method, on random contributions, against the sum in the order of ranks.

#include <numeric>

#include "sparse/as_everyones.h"
#include "sparse/gather.h"
#include "sparse/harness.h"
#include "sparse/packed.h"

namespace merak {
namespace {

template <class Program_of>
void expect_correct(bool integers, Program_of program_of) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Case one = random_case(seed, integers);
    const Known known = exchanged(one);
    std::vector<Program> programs;
    const bool into_table = seed % 2 == 1;
    for (const Contributions& mine : contributions_of(one, known, into_table))
      programs.push_back(program_of(mine, seed));
    expect_sums(one, known, programs, into_table, seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Gather, IsTheSumInTheOrderOfRanks) {
  expect_correct(false, [](const Contributions& mine, unsigned seed) {
    return gather_all_reduce(mine, 1 + seed % 7 * mine.row_bytes);
  });
}

TEST(Packed, IsTheSumOfIntegers) {
  expect_correct(true, [](const Contributions& mine, unsigned) {
    return packed_all_reduce(mine, {uniform_topology(mine.rows.size), sizeof(float)});
  });
}

// Of 16-bit types; here of fp32, where the order of the sums shows.
TEST(AsEveryones, IsTheSumInTheOrderOfRanks) {
  for (const bool whole : {false, true})
    expect_correct(false, [whole](const Contributions& mine, unsigned seed) {
      std::vector<std::uint32_t> ids = mine.rows.ids;
      if (whole) {
        ids.resize(mine.own.present.bits());
        std::iota(ids.begin(), ids.end(), 0u);
      }
      const AsEveryones all(mine, ids);
      const Deal dealt = deal(all.contributions().rows);
      const std::uint64_t ring = 2 * (mine.ranks() - 1) * ids.size();  // rows, of all ranks
      EXPECT_EQ(std::accumulate(dealt.out.begin(), dealt.out.end(), std::uint64_t{0}), ring);
      return balanced_all_reduce(all.contributions(), dealt, 1 + seed % 7 * mine.row_bytes);
    });
}

TEST(Dense, IsTheSumOfIntegers) {
  expect_correct(true, [](const Contributions& mine, unsigned) {
    return dense_all_reduce(mine, {uniform_topology(mine.rows.size), sizeof(float)});
  });
}

}  // namespace
}  // namespace merak
