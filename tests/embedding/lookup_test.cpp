// Lookups and their gradients, beside one table on one rank.

#include "embedding/lookup.h"

#include <algorithm>
#include <functional>

#include "embedding/gradient.h"
#include "sparse/harness.h"

namespace merak {
namespace {

// Ranks with no tokens, with tokens that all read the same rows, with columns or rows that cannot be dealt evenly.
struct Drawn {
  int ranks;
  std::size_t table_rows, columns;
  Split split;
  std::vector<float> table;
  std::vector<std::vector<std::int64_t>> tokens;  // by rank
  std::vector<std::vector<float>> gradients;      // by rank, a row a token; integers
  std::vector<Batch> batches;

  explicit Drawn(unsigned seed, SplitBy by, std::size_t most_columns = 40, std::size_t most_tokens = 60) {
    std::mt19937 random(seed);
    const auto draw = [&](std::size_t least, std::size_t most) {
      return std::uniform_int_distribution<std::size_t>(least, most)(random);
    };
    ranks = static_cast<int>(draw(1, 8)), table_rows = draw(1, 100), columns = draw(1, most_columns);
    split = {by, table_rows, columns, ranks};
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
      batches.push_back(make_batch(rank, split, sizeof(float), own[static_cast<std::size_t>(rank)], present));
  }

  bool holds(int rank, std::size_t row, std::size_t column) const {
    const Interval down = split.rows(rank), across = split.columns(rank);
    return down.begin <= row && row < down.end && across.begin <= column && column < across.end;
  }

  // That a rank holds.
  std::vector<float> part_of_table(int rank) const {
    std::vector<float> part;
    for (std::size_t i = 0; i < table.size(); ++i)
      if (holds(rank, i / columns, i % columns)) part.push_back(table[i]);
    return part;
  }

  // Of rows of the table, each with all columns.
  std::vector<float> part_of(const std::map<std::int64_t, std::vector<float>>& rows, int rank) const {
    std::vector<float> part;
    for (const auto& [id, row] : rows)
      for (std::size_t j = 0; j < columns; ++j)
        if (holds(rank, static_cast<std::size_t>(id), j)) part.push_back(row[j]);
    return part;
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
      memory.push_back({bytes_of(part_of_table(batch.rank)), Message(batch.tokens * batch.row_bytes())});
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
    for (auto& [id, sum] : sums)
      for (float& value : sum) value /= static_cast<float>(ranks);
    std::vector<Program> programs;
    std::vector<Memory> memory;
    for (const Batch& all : batches) {
      const Batch batch = part(all);
      programs.push_back(gradient(batch));
      ASSERT_EQ(batch.rows.rows(), sums.size());
      expect_ids(batch, sums);
      memory.push_back({bytes_of(gradients[static_cast<std::size_t>(batch.rank)]),
                        Message(batch.held_ids().size() * batch.width(batch.rank))});
    }
    run(programs, memory, make_sparse_reducer(DType::kFloat32, Reduction::kAverage, ranks), seed);
    for (int rank = 0; rank < ranks; ++rank)
      ASSERT_EQ(memory[static_cast<std::size_t>(rank)].output, bytes_of(part_of(sums, rank))) << "rank " << rank;
  }

  void expect_ids(const Batch& batch, const std::map<std::int64_t, std::vector<float>>& sums) const {
    const Interval rows = split.rows(batch.rank);
    std::vector<std::uint32_t> expected;
    for (const auto& [id, sum] : sums)
      if (rows.begin <= static_cast<std::size_t>(id) && static_cast<std::size_t>(id) < rows.end)
        expected.push_back(static_cast<std::uint32_t>(static_cast<std::size_t>(id) - rows.begin));
    ASSERT_EQ(batch.held_ids(), expected);
  }
};

// Of either split.
class Lookup : public testing::TestWithParam<SplitBy> {};
INSTANTIATE_TEST_SUITE_P(Splits, Lookup, testing::Values(SplitBy::kColumns, SplitBy::kRows),
                         [](const auto& by) { return by.param == SplitBy::kRows ? "Rows" : "Columns"; });

TEST_P(Lookup, GivesEveryTokenItsRow) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Drawn(seed, GetParam()).expect_lookup(seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST_P(Lookup, ItsGradientIsTheSumOverTokensAndTheAverageOverRanks) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Drawn drawn(seed, GetParam());
    drawn.expect_gradient(
        Drawn::all_of, [](std::int64_t) { return true; }, seed);
    const auto padding = static_cast<std::uint32_t>(seed % drawn.table_rows);
    drawn.expect_gradient([=](const Batch& batch) { return without_row(batch, padding); },
                          [=](std::int64_t id) { return id != padding; }, seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST_P(Lookup, GoesInParts) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Drawn drawn(seed, GetParam());
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
  const Drawn drawn(7, SplitBy::kColumns);
  Bitmap expected(drawn.table_rows);
  for (const auto& ids : drawn.tokens)
    for (std::int64_t id : ids) expected.set(static_cast<std::size_t>(id));
  EXPECT_EQ(rows_read(drawn.batches.front()), expected);
  EXPECT_GT(expected.count(), 0U);
}

// Several segments for each rank, several blocks of sums.
TEST_P(Lookup, LongRowsTravelInSegments) {
  for (unsigned seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Drawn drawn(seed, GetParam(), 20'000, 300);
    drawn.expect_lookup(seed);
    drawn.expect_gradient(
        Drawn::all_of, [](std::int64_t) { return true; }, seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Split, CutsAsTorchChunkCuts) {
  const auto counts = [](std::size_t all, int ranks) {
    std::vector<std::size_t> counts;
    for (int rank = 0; rank < ranks; ++rank) {
      const Split by_columns{SplitBy::kColumns, 5, all, ranks}, by_rows{SplitBy::kRows, all, 5, ranks};
      EXPECT_EQ(by_columns.rows(rank), (Interval{0, 5}));
      EXPECT_EQ(by_rows.columns(rank), (Interval{0, 5}));
      EXPECT_EQ(by_columns.columns(rank), by_rows.rows(rank));
      counts.push_back(by_rows.rows(rank).count());
    }
    return counts;
  };
  EXPECT_EQ(counts(8, 4), (std::vector<std::size_t>{2, 2, 2, 2}));
  EXPECT_EQ(counts(9, 4), (std::vector<std::size_t>{3, 3, 3, 0}));
  EXPECT_EQ(counts(10, 4), (std::vector<std::size_t>{3, 3, 3, 1}));
  EXPECT_EQ(counts(2, 3), (std::vector<std::size_t>{1, 1, 0}));
}

}  // namespace
}  // namespace merak
