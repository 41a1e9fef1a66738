// Lookups and their gradients, beside one table on one rank.

#include "embedding/lookup.h"

#include <algorithm>
#include <functional>

#include "embedding/gradient.h"
#include "sparse/harness.h"

namespace merak {
namespace {

// Ranks with no tokens, with tokens that all read the same rows, with columns that cannot be dealt evenly.
struct Drawn {
  int ranks;
  std::size_t table_rows, columns;
  std::vector<float> table;
  std::vector<std::vector<std::int64_t>> tokens;  // by rank
  std::vector<std::vector<float>> gradients;      // by rank, a row a token; integers
  std::vector<Batch> batches;

  explicit Drawn(unsigned seed, std::size_t most_columns = 40, std::size_t most_tokens = 60) {
    std::mt19937 random(seed);
    const auto draw = [&](std::size_t least, std::size_t most) {
      return std::uniform_int_distribution<std::size_t>(least, most)(random);
    };
    ranks = static_cast<int>(draw(1, 8)), table_rows = draw(1, 100), columns = draw(1, most_columns);
    for (std::size_t i = 0; i < table_rows * columns; ++i) table.push_back(static_cast<float>(draw(0, 2000)) - 1000);
    for (int rank = 0; rank < ranks; ++rank) {
      auto& ids = tokens.emplace_back(draw(0, 4) == 0 ? 0 : draw(0, most_tokens));
      for (std::int64_t& id : ids) id = static_cast<std::int64_t>(draw(0, draw(0, table_rows - 1)));
      auto& gradient = gradients.emplace_back(ids.size() * columns);
      for (float& value : gradient) value = static_cast<float>(draw(0, 200)) - 100;
    }
    std::vector<OwnRows> own;
    std::vector<Bitmap> present;
    for (const auto& ids : tokens) own.push_back(own_rows(ids, table_rows)), present.push_back(own.back().present);
    for (int rank = 0; rank < ranks; ++rank)
      batches.push_back(
          make_batch(rank, {columns, ranks}, sizeof(float), own[static_cast<std::size_t>(rank)], present));
  }

  // That a rank holds, of rows that each have all columns.
  std::vector<float> shard(const std::vector<float>& rows, int rank) const {
    const Columns cut{columns, ranks};
    std::vector<float> shard;
    for (std::size_t row = 0; row < rows.size() / columns; ++row)
      for (std::size_t j = 0; j < cut.count(rank); ++j) shard.push_back(rows[row * columns + cut.begin(rank) + j]);
    return shard;
  }

  void run(const std::vector<Program>& programs, std::vector<Memory>& memory, const Reducer& reducer,
           unsigned seed) const {
    std::vector<BufferSizes> sizes;
    for (const Memory& one : memory) sizes.push_back({one.input.size(), one.output.size()});
    ASSERT_NO_THROW(validate(programs, sizes));
    play(programs, memory, reducer, seed);
  }

  // Some rows of the table.
  Bitmap some_rows(unsigned seed) const {
    std::mt19937 random(seed);
    Bitmap rows(table_rows);
    for (std::size_t row = 0; row < table_rows; ++row)
      if (random() % 3 == 0) rows.set(row);
    return rows;
  }

  using Part = std::function<Batch(const Batch&)>;
  static Batch all_of(const Batch& batch) { return batch; }

  // Of the parts one after the other.
  void expect_lookup(unsigned seed, const std::vector<Part>& parts = {all_of}) const {
    std::vector<Memory> memory;
    for (const Batch& batch : batches)
      memory.push_back({bytes_of(shard(table, batch.rank)), Message(batch.tokens * batch.row_bytes())});
    for (const Part& part : parts) {
      std::vector<Program> programs;
      for (const Batch& batch : batches) programs.push_back(lookup(part(batch)));
      run(programs, memory, make_sparse_reducer(DType::kFloat32, Reduction::kSum, 1), seed);
    }
    for (std::size_t rank = 0; rank < tokens.size(); ++rank) {
      std::vector<float> expected;
      for (std::int64_t id : tokens[rank]) {
        const auto row = table.begin() + id * static_cast<std::int64_t>(columns);
        expected.insert(expected.end(), row, row + static_cast<std::int64_t>(columns));
      }
      ASSERT_EQ(memory[rank].output, bytes_of(expected)) << "rank " << rank;
    }
  }

  // Of a part, an average over ranks; `kept`: whether the part has a row.
  void expect_gradient(const Part& part, const std::function<bool(std::int64_t)>& kept, unsigned seed) const {
    std::map<std::int64_t, std::vector<float>> sums;
    for (std::size_t rank = 0; rank < tokens.size(); ++rank)
      for (std::size_t i = 0; i < gradients[rank].size(); ++i) {
        const std::int64_t id = tokens[rank][i / columns];
        if (kept(id)) sums.try_emplace(id, columns).first->second[i % columns] += gradients[rank][i];
      }
    std::vector<float> rows;
    for (const auto& [id, sum] : sums)
      for (float value : sum) rows.push_back(value / static_cast<float>(ranks));
    std::vector<Program> programs;
    std::vector<Memory> memory;
    for (const Batch& all : batches) {
      const Batch batch = part(all);
      programs.push_back(gradient(batch));
      ASSERT_EQ(batch.rows.rows(), sums.size());
      for (std::size_t u = 0; const auto& [id, sum] : sums) ASSERT_EQ(batch.rows.ids[u++], id);
      memory.push_back({bytes_of(gradients[static_cast<std::size_t>(batch.rank)]),
                        Message(batch.rows.rows() * batch.width(batch.rank))});
    }
    run(programs, memory, make_sparse_reducer(DType::kFloat32, Reduction::kAverage, ranks), seed);
    for (int rank = 0; rank < ranks; ++rank)
      ASSERT_EQ(memory[static_cast<std::size_t>(rank)].output, bytes_of(shard(rows, rank))) << "rank " << rank;
  }
};

TEST(Lookup, GivesEveryTokenItsRow) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Drawn(seed).expect_lookup(seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Lookup, ItsGradientIsTheSumOverTokensAndTheAverageOverRanks) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Drawn drawn(seed);
    drawn.expect_gradient(
        Drawn::all_of, [](std::int64_t) { return true; }, seed);
    const auto padding = static_cast<std::uint32_t>(seed % drawn.table_rows);
    drawn.expect_gradient([=](const Batch& batch) { return without_row(batch, padding); },
                          [=](std::int64_t id) { return id != padding; }, seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Lookup, GoesInParts) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Drawn drawn(seed);
    const Bitmap rows = drawn.some_rows(seed);
    const auto among = [&](const Batch& batch) { return part_among(batch, rows); };
    const auto beyond = [&](const Batch& batch) { return part_beyond(batch, rows); };
    drawn.expect_lookup(seed, {among, beyond});
    drawn.expect_gradient(
        among, [&](std::int64_t id) { return rows.test(static_cast<std::size_t>(id)); }, seed);
    drawn.expect_gradient(
        beyond, [&](std::int64_t id) { return !rows.test(static_cast<std::size_t>(id)); }, seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Batch, KnowsWhichRowsAreRead) {
  const Drawn drawn(7);
  Bitmap expected(drawn.table_rows);
  for (const auto& ids : drawn.tokens)
    for (std::int64_t id : ids) expected.set(static_cast<std::size_t>(id));
  EXPECT_EQ(rows_read(drawn.batches.front()), expected);
  EXPECT_GT(expected.count(), 0U);
}

// Several segments for each rank, several blocks of sums.
TEST(Lookup, LongRowsTravelInSegments) {
  for (unsigned seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Drawn drawn(seed, 20'000, 300);
    drawn.expect_lookup(seed);
    drawn.expect_gradient(
        Drawn::all_of, [](std::int64_t) { return true; }, seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Columns, AreCutAsTorchChunkCuts) {
  const auto counts = [](std::size_t all, int ranks) {
    std::vector<std::size_t> counts;
    for (int rank = 0; rank < ranks; ++rank) counts.push_back(Columns{all, ranks}.count(rank));
    return counts;
  };
  EXPECT_EQ(counts(8, 4), (std::vector<std::size_t>{2, 2, 2, 2}));
  EXPECT_EQ(counts(9, 4), (std::vector<std::size_t>{3, 3, 3, 0}));
  EXPECT_EQ(counts(10, 4), (std::vector<std::size_t>{3, 3, 3, 1}));
  EXPECT_EQ(counts(2, 3), (std::vector<std::size_t>{1, 1, 0}));
}

}  // namespace
}  // namespace merak
