// The programs of an exact sketch: valid, and what they leave in the sketch is the sums and nothing else.

#include "sparse/exact_sketch.h"

#include "sparse/harness.h"

namespace merak {
namespace {

// By rank: its rows, ascending, each as often as its input has it, added up; integers.
std::vector<std::byte> summed(const Case& one, std::size_t rank) {
  Case alone{.size = 1, .table_rows = one.table_rows, .columns = one.columns, .of_rank = {one.of_rank[rank]}};
  return bytes_of(expected_sums(alone, exchanged(alone).rows, 1));
}

TEST(ExactSketch, LeavesTheSumsInTheSketch) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Case one = random_case(seed, true);
    const Known known = exchanged(one);
    const Topology topology = uniform_topology(one.size);
    ExponentRange exponents;
    for (const Contribution& mine : one.of_rank)
      exponents.include(exponents_of(DType::kFloat32, mine.values.data(), mine.values.size()));
    exponents.high += 8, exponents.low -= 1;  // sums of duplicates
    std::vector<std::unique_ptr<ExactSketch>> sketches;
    std::vector<Program> programs;
    std::vector<Memory> memory;
    std::vector<BufferSizes> sizes;
    std::vector<Act> acts;
    for (std::size_t rank = 0; rank < one.of_rank.size(); ++rank) {
      sketches.push_back(ExactSketch::make({{known.own[rank], known.rows, summed(one, rank), one.columns, exponents}},
                                           {DType::kFloat32, static_cast<int>(rank), topology, one.size}));
      ASSERT_TRUE(sketches.back());
      acts.push_back(sketches.back()->all_reduce({}));
      const Act& act = acts.back();
      programs.push_back(act.program->program());
      sizes.push_back({act.input.size(), act.output.size()});
      const std::byte* input = act.input.at(0);
      memory.push_back({input ? Message(input, input + act.input.size()) : Message(), Message(act.output.size())});
    }
    ASSERT_NO_THROW(validate(programs, sizes));
    play(programs, memory, acts.front().reducer, seed);
    const std::vector<float> expected = expected_sums(one, known.rows, one.size);
    for (std::size_t rank = 0; rank < sketches.size(); ++rank) {
      std::copy(memory[rank].output.begin(), memory[rank].output.end(), acts[rank].output.at(0));
      EXPECT_TRUE(sketches[rank]->certificate());
      std::vector<float> row(one.columns);
      for (std::uint32_t u = 0; u < known.rows.rows(); ++u) {
        sketches[rank]->recover(0, u, row.data());
        for (std::size_t j = 0; j < one.columns; ++j) ASSERT_EQ(row[j], expected[u * one.columns + j]);
      }
      sketches[rank]->spoil();
      EXPECT_FALSE(sketches[rank]->certificate());
    }
  }
}

}  // namespace
}  // namespace merak
