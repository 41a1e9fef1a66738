// The program of a lossy sketch, beside cells that are added up one element after the other.

#include "sparse/lossy_sketch.h"

#include "sparse/harness.h"

namespace merak {
namespace {

// As integers, so that the order of sums does not matter. By rank: the rows that it has, added up.
using Table = std::map<std::uint32_t, std::vector<float>>;

std::vector<Table> tables_of(const Case& one) {
  std::vector<Table> tables;
  for (const Contribution& mine : one.of_rank) {
    Table& table = tables.emplace_back();
    for (std::size_t i = 0; i < mine.values.size(); ++i) {
      const auto id = static_cast<std::uint32_t>(mine.ids[i / one.columns]);
      table.try_emplace(id, one.columns).first->second[i % one.columns] += mine.values[i];
    }
  }
  return tables;
}

void put(std::vector<float>& to, std::size_t row, const std::vector<float>& values) {
  std::copy(values.begin(), values.end(), to.begin() + static_cast<std::ptrdiff_t>(row * values.size()));
}

struct Drawn {
  Case one;
  Known known;
  SketchLayout layout;

  explicit Drawn(unsigned seed) : one(random_case(seed, true)), known(exchanged(one)) {
    std::mt19937 random(seed);
    std::vector<double> energies(known.rows.rows());
    for (double& energy : energies) energy = random() % 10;
    const std::size_t cells = 1 + random() % (known.rows.rows() + 3);
    layout = lay_out_sketch(known.rows, energies, cells, {0, seed, seed % 2 == 0});
  }

  // The output of a rank.
  Message expected(const std::vector<Table>& tables, std::size_t rank, bool into_table, bool keep) const {
    const SketchResult result = sketch_result(known.rows, known.own[rank].present, layout);
    const auto room = [&](std::size_t rows) {
      return std::vector<float>((into_table ? one.table_rows : rows) * one.columns);
    };
    std::vector<std::vector<float>> cells(layout.cells, std::vector<float>(one.columns));
    const std::vector<std::uint32_t> placed = layout.placed();
    for (std::uint32_t u : placed)
      for (const Table& table : tables)
        if (const auto row = table.find(known.rows.ids[u]); row != table.end())
          for (std::size_t j = 0; j < one.columns; ++j)
            cells[layout.cell_of[u]][j] += static_cast<float>(layout.sign_of[u]) * row->second[j];
    std::vector<float> estimates = room(placed.size()), kept = room(result.kept.size());
    for (std::size_t i = 0; i < placed.size(); ++i) {
      std::vector<float> row = cells[layout.cell_of[placed[i]]];
      for (float& value : row)
        value = 0.0f + static_cast<float>(layout.sign_of[placed[i]]) * (value / static_cast<float>(one.size));
      put(estimates, into_table ? known.rows.ids[placed[i]] : i, row);
    }
    for (std::size_t i = 0; i < result.kept.size(); ++i)
      put(kept, into_table ? result.kept[i] : i, tables[rank].at(result.kept[i]));
    if (keep) estimates.insert(estimates.end(), kept.begin(), kept.end());
    return bytes_of(estimates);
  }
};

TEST(LossySketch, IsTheSumOfSignedRowsInItsCells) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Drawn drawn(seed);
    const bool into_table = seed % 3 == 0, keep = seed % 2 == 0;
    const Topology topology = uniform_topology(drawn.one.size);
    const std::vector<Table> tables = tables_of(drawn.one);
    std::vector<Program> programs;
    std::vector<Memory> memory;
    std::vector<BufferSizes> sizes;
    for (const Contributions& mine : contributions_of(drawn.one, drawn.known, into_table)) {
      const std::size_t rank = mine.self();
      programs.push_back(lossy_all_reduce(mine, drawn.layout,
                                          sketch_result(drawn.known.rows, drawn.known.own[rank].present, drawn.layout),
                                          {topology, sizeof(float)}, keep));
      const std::size_t bytes = drawn.expected(tables, rank, into_table, keep).size();
      memory.push_back({bytes_of(drawn.one.of_rank[rank].values), Message(bytes)});
      sizes.push_back({memory.back().input.size(), bytes});
    }
    ASSERT_NO_THROW(validate(programs, sizes));
    play(programs, memory, make_sparse_reducer(DType::kFloat32, Reduction::kAverage, drawn.one.size), seed);
    for (std::size_t rank = 0; rank < tables.size(); ++rank)
      ASSERT_EQ(memory[rank].output, drawn.expected(tables, rank, into_table, keep)) << "rank " << rank;
  }
}

}  // namespace
}  // namespace merak
