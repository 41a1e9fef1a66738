#include "sparse/peeling.h"

#include <algorithm>
#include <numeric>

#include "sparse/harness.h"

namespace merak {
namespace {

std::vector<std::uint32_t> random_ids(std::size_t count, std::mt19937& random) {
  std::vector<std::uint32_t> ids(4 * count + 1);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  ids.resize(count);
  std::sort(ids.begin(), ids.end());
  return ids;
}

// Carries out what recovers the rows; whether nothing remains.
template <class Integer>
bool peel(const PeelingPlan& plan, std::vector<Integer> cells, std::size_t lanes, std::vector<Integer>& rows) {
  const Reducer sum = make_sparse_reducer(sizeof(Integer) == 4 ? DType::kInt32 : DType::kInt64, Reduction::kSum, 1);
  auto* bytes = reinterpret_cast<std::byte*>(cells.data());
  for (const RowSums& round : peeling_sums(plan, lanes * sizeof(Integer))) sum.sum_rows(bytes, bytes, round, 1);
  const auto begin = [&](std::uint32_t cell) { return cells.begin() + static_cast<std::ptrdiff_t>(cell * lanes); };
  rows.clear();
  for (std::uint32_t cell : plan.cell_of) rows.insert(rows.end(), begin(cell), begin(cell + 1));
  const std::vector<std::uint32_t> others = plan.other_cells();
  return std::all_of(others.begin(), others.end(), [&](std::uint32_t cell) {
    return std::all_of(begin(cell), begin(cell + 1), [](Integer value) { return value == 0; });
  });
}

// Every rank has some of the rows; what is peeled from the sum of their sketches is the sum of the rows.
template <class Integer>
void expect_recovered(std::size_t count, std::size_t lanes, unsigned seed) {
  std::mt19937 random(seed);
  const auto plan = plan_peeling(random_ids(count, random), 1.4);
  ASSERT_TRUE(plan) << count << " rows, seed " << seed;
  std::vector<Integer> sketch(plan->cells() * lanes), expected(count * lanes), found;
  const Reducer sum = make_sparse_reducer(sizeof(Integer) == 4 ? DType::kInt32 : DType::kInt64, Reduction::kSum, 1);
  for (int rank = 0; rank < 3; ++rank) {
    std::vector<std::uint32_t> mine;
    for (std::uint32_t row = 0; row < count; ++row)
      if (random() % 2 == 0) mine.push_back(row);
    std::vector<Integer> values(mine.size() * lanes), part(sketch.size());
    for (Integer& value : values) value = static_cast<Integer>((std::uint64_t{random()} << 32) + random());
    sum.sum_rows(reinterpret_cast<std::byte*>(part.data()), reinterpret_cast<const std::byte*>(values.data()),
                 sketch_sums(*plan, mine, lanes * sizeof(Integer)), 1);
    for (std::size_t i = 0; i < sketch.size(); ++i) sketch[i] += part[i];
    for (std::size_t i = 0; i < values.size(); ++i) expected[mine[i / lanes] * lanes + i % lanes] += values[i];
  }
  EXPECT_TRUE(peel(*plan, sketch, lanes, found));
  EXPECT_EQ(found, expected) << count << " rows, seed " << seed;
}

TEST(Peeling, RecoversSumsThatWrapAround) {
  for (std::size_t count : {0, 1, 2, 5, 30, 1000})
    for (unsigned seed = 0; seed < 10; ++seed) {
      expect_recovered<std::uint32_t>(count, 3, seed);
      expect_recovered<std::uint64_t>(count, 2, seed);
    }
  for (std::size_t lanes : {31, 32, 33, 100}) {
    expect_recovered<std::uint32_t>(50, lanes, 1);
    expect_recovered<std::uint64_t>(50, lanes, 1);
  }
}

TEST(Peeling, TakesFewRounds) {
  std::mt19937 random(1);
  const auto plan = plan_peeling(random_ids(20'000, random), 1.4);
  EXPECT_LE(plan->rounds.size(), 25u);
}

TEST(Peeling, NeedsOnePointThreeCellsARow) {
  std::mt19937 random(1);
  for (int times = 0; times < 10; ++times) {
    EXPECT_TRUE(plan_peeling(random_ids(5000, random), 1.3));
    EXPECT_FALSE(plan_peeling(random_ids(5000, random), 1.15));
  }
}

TEST(Peeling, CertifiesThatNothingElseIsInTheSketch) {
  const auto plan = plan_peeling({3, 5, 8}, 1.4);
  std::vector<std::uint32_t> sketch(plan->cells()), rows;
  EXPECT_TRUE(peel(*plan, sketch, 1, rows));
  for (std::uint32_t& cell : sketch) {
    cell += 1;
    EXPECT_FALSE(peel(*plan, sketch, 1, rows));
    cell -= 1;
  }
}

}  // namespace
}  // namespace merak
