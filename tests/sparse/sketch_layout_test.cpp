// What a lossy sketch promises, by its layout: unbiased with the least noise, or a contraction.

#include "sparse/sketch_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>

#include "sparse/harness.h"
#include "sparse/lossy_sketch.h"
#include "sparse/row_energies.h"
#include "sparse/sum_rows.h"

namespace merak {
namespace {

constexpr std::size_t kLanes = 3;

template <class T>
std::vector<BFloat16> norms_of_rows(DType dtype, const std::vector<T>& values, std::size_t lanes) {
  RowSums rows(lanes * sizeof(T));
  for (std::uint32_t row = 0; row < values.size() / lanes; ++row) rows.copy_row(row, row);
  return norms_of(energies_of_rows(dtype, values.data(), rows));
}

// One rank with `rows` rows of a table twice as long.
struct OneRank {
  OwnRows own;
  UnionRows all;
  std::vector<float> values;

  OneRank(std::size_t rows, std::mt19937& random, double skew) {
    std::vector<std::int64_t> ids;
    for (std::size_t i = 0; i < rows; ++i) ids.push_back(static_cast<std::int64_t>(2 * i + random() % 2));
    own = own_rows(ids, 2 * rows);
    all = unite({own.present});
    for (std::size_t i = 0; i < rows; ++i) {
      const auto scale = static_cast<float>(std::pow(static_cast<double>(i) + 1, -skew));
      for (std::size_t j = 0; j < kLanes; ++j) values.push_back(scale * std::normal_distribution<float>()(random));
    }
  }

  std::vector<double> energies() const {
    return energies_of_union(all, {norms_of_rows(DType::kFloat32, values, kLanes)});
  }
  double energy() const {
    double sum = 0;
    for (float value : values) sum += std::pow(static_cast<double>(value), 2);
    return sum;
  }

  // What a sketch of so many cells makes of the rows; zeros where it has no estimate.
  std::vector<float> estimates(std::size_t cells, const SketchBudget& budget) const {
    const std::vector<float> table = table_of(lay_out_sketch(all, energies(), cells, budget));
    std::vector<float> rows;
    for (std::uint32_t id : all.ids) rows.insert(rows.end(), &table[id * kLanes], &table[id * kLanes] + kLanes);
    return rows;
  }

  // The whole table, made by the program of one rank.
  std::vector<float> table_of(const SketchLayout& layout) const {
    const Topology alone = uniform_topology(1);
    const Contributions mine{all, own, 0, kLanes * sizeof(float), true, true};
    const Program program =
        lossy_all_reduce(mine, layout, sketch_result(all, own.present, layout), {alone, sizeof(float)}, false);
    Message table(own.present.bits() * kLanes * sizeof(float));
    std::vector<Memory> memory = {{bytes_of(values), table}};
    play({program}, memory, make_sparse_reducer(DType::kFloat32, Reduction::kSum, 1), 1);
    std::vector<float> result(own.present.bits() * kLanes);
    std::memcpy(result.data(), memory[0].output.data(), memory[0].output.size());
    return result;
  }

  double squared_error(const std::vector<float>& estimates) const {
    double error = 0;
    for (std::size_t i = 0; i < values.size(); ++i) error += std::pow(double(estimates[i]) - double(values[i]), 2);
    return error;
  }
};

struct Average {
  double sum = 0, squares = 0, count = 0;
  void add(double value) { sum += value, squares += value * value, ++count; }
  double mean() const { return sum / count; }
  double sigma() const { return std::sqrt(std::max(squares / count - mean() * mean(), 0.0) / count); }  // of the mean
};

// Rows alike heavy: none has a cell of its own. The noise is (U - 1) / c of the energy, and right on the average.
TEST(SketchLayout, APlainSketchIsUnbiasedWithTheNoiseOfItsFormula) {
  constexpr std::size_t kRows = 60;
  std::mt19937 random(7);
  OneRank one(kRows, random, 0);
  for (std::size_t row = 0; row < kRows; ++row)
    for (std::size_t j = 0; j < kLanes; ++j) one.values[row * kLanes + j] = (row + j) % 2 == 0 ? 1.0f : -1.0f;
  for (const std::size_t cells : {15u, 29u}) {
    SCOPED_TRACE(cells);
    Average error, element;
    for (std::uint64_t seed = 0; seed < 4000; ++seed) {
      const std::vector<float> estimates = one.estimates(cells, {0, seed, false});
      error.add(one.squared_error(estimates));
      element.add(double(estimates[5]) - double(one.values[5]));
    }
    const double expected = (kRows - 1) / static_cast<double>(cells) * one.energy();
    EXPECT_NEAR(error.mean(), expected, 3 * error.sigma());
    EXPECT_NEAR(element.mean(), 0, 3 * element.sigma());
    EXPECT_GT(element.sigma(), 0);
  }
}

// Of skewed rows the heaviest are alone: the noise is less than that of a plain sketch, as much as its formula says,
// and no other number of them would do better.
TEST(SketchLayout, HeavyRowsAloneMakeTheLeastNoise) {
  for (unsigned draw = 0; draw < 5; ++draw) {
    SCOPED_TRACE(draw);
    std::mt19937 random(draw);
    constexpr std::size_t kRows = 80, kCells = 20;
    const OneRank one(kRows, random, 1);
    const std::vector<double> energies = one.energies();
    std::vector<double> heaviest = energies;
    std::sort(heaviest.rbegin(), heaviest.rend());
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t m = 0; m < kCells; ++m) {
      const double others = std::accumulate(heaviest.begin() + static_cast<std::ptrdiff_t>(m), heaviest.end(), 0.0);
      least = std::min(least, others * static_cast<double>(kRows - m - 1) / static_cast<double>(kCells - m));
    }
    EXPECT_LT(least, 0.5 * (kRows - 1) / kCells * one.energy());
    Average error;
    for (std::uint64_t seed = 0; seed < 2000; ++seed)
      error.add(one.squared_error(one.estimates(kCells, {0, seed, false})));
    EXPECT_NEAR(error.mean(), least, 3 * error.sigma() + 0.01 * least);  // energies have 8 bits
  }
}

// With feedback at most 1 - c / U of the energy is left, whatever the rows; estimates are exact or absent.
TEST(SketchLayout, TopRowsAreAContraction) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const std::size_t rows = 1 + random() % 90, cells = 1 + random() % 100;
    const OneRank one(rows, random, seed % 4 * 0.5);
    const std::vector<float> estimates = one.estimates(cells, {0, seed, true});
    const double share = static_cast<double>(std::min(cells, rows)) / static_cast<double>(rows);
    EXPECT_LE(one.squared_error(estimates), (1 - share * (1 - 0x1p-7)) * one.energy());
    for (std::size_t i = 0; i < estimates.size(); ++i)
      EXPECT_TRUE(estimates[i] == one.values[i] || estimates[i] == 0) << i;
  }
}

TEST(SketchLayout, SketchesAddUp) {
  std::mt19937 random(3);
  OneRank a(50, random, 1), b = a, sum = a;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    a.values[i] = static_cast<float>(static_cast<int>(random() % 2000) - 1000);
    b.values[i] = static_cast<float>(static_cast<int>(random() % 2000) - 1000);
    sum.values[i] = a.values[i] + b.values[i];
  }
  // One layout for all, as all ranks have it.
  const SketchLayout layout = lay_out_sketch(sum.all, sum.energies(), 12, {0, 5, false});
  const std::vector<float> of_a = a.table_of(layout), of_b = b.table_of(layout), of_sum = sum.table_of(layout);
  for (std::size_t i = 0; i < of_sum.size(); ++i) EXPECT_EQ(of_a[i] + of_b[i], of_sum[i]);
}

TEST(SketchLayout, RowsThatAreNoNumbersAreTheHeaviest) {
  std::mt19937 random(1);
  OneRank one(20, random, 0);
  one.values[7 * kLanes] = std::numeric_limits<float>::quiet_NaN();
  one.values[9 * kLanes + 1] = -std::numeric_limits<float>::infinity();
  for (const bool feedback : {false, true}) {
    const SketchLayout layout = lay_out_sketch(one.all, one.energies(), 4, {0, 1, feedback});
    std::map<std::uint32_t, int> rows_of_cell;
    for (std::uint32_t cell : layout.cell_of) ++rows_of_cell[cell];
    EXPECT_EQ(rows_of_cell[layout.cell_of[7]], 1);
    EXPECT_EQ(rows_of_cell[layout.cell_of[9]], 1);
  }
}

TEST(SketchLayout, TheHeaviestRowsAreAnnounced) {
  std::mt19937 random(4);
  for (int draw = 0; draw < 100; ++draw) {
    Bitmap present(150);
    std::vector<std::pair<float, int>> heaviest;  // with minus the row: of equally heavy ones the lower comes first
    std::vector<BFloat16> energies;
    for (int row = 0; row < 150; ++row) {
      if (random() % 3 != 0) continue;
      present.set(static_cast<std::size_t>(row));
      energies.push_back(BFloat16(static_cast<float>(random() % 20)));
      heaviest.emplace_back(static_cast<float>(energies.back()), -row);
    }
    const std::size_t most = random() % 60;
    std::sort(heaviest.rbegin(), heaviest.rend());
    heaviest.resize(std::min(most, heaviest.size()));
    std::map<int, float> expected, left;
    for (const auto& [energy, row] : heaviest) expected[-row] = energy;
    keep_heaviest(present, energies, most);
    const std::vector<std::uint32_t> members = present.members();
    ASSERT_EQ(members.size(), energies.size());
    for (std::size_t i = 0; i < members.size(); ++i)
      left[static_cast<int>(members[i])] = static_cast<float>(energies[i]);
    EXPECT_EQ(left, expected);
  }
}

TEST(SketchLayout, NormsAreRootsOfSumsOfSquares) {
  const std::vector<double> values = {3, 4, 0, 0, 1e200, 1, 1e-160, 0, 3e-30, 4e-30};
  const auto norms = norms_of_rows(DType::kFloat64, values, 2);
  EXPECT_EQ(static_cast<float>(norms[0]), 5);
  EXPECT_EQ(static_cast<float>(norms[1]), 0);
  EXPECT_EQ(static_cast<float>(norms[2]), std::numeric_limits<float>::infinity());
  EXPECT_EQ(static_cast<float>(norms[3]), 0);
  EXPECT_NEAR(static_cast<float>(norms[4]), 5e-30, 5e-30 / 256);
  std::mt19937 random(2);
  for (std::size_t elements : {1u, 7u, 8u, 9u, 64u, 515u}) {
    std::vector<float> row(elements);
    for (float& value : row) value = std::normal_distribution<float>()(random);
    const double expected = std::sqrt(std::inner_product(row.begin(), row.end(), row.begin(), 0.0));
    EXPECT_NEAR(static_cast<float>(norms_of_rows(DType::kFloat32, row, elements)[0]), expected, expected / 512 * 1.01);
  }
}

// The heaviest are found whatever the scale of all values.
TEST(SketchLayout, ScaleDoesNotMatter) {
  for (const float scale : {1.0f, 1e-30f, 1e30f}) {
    std::mt19937 random(5);
    OneRank one(20, random, 1);
    for (float& value : one.values) value *= scale;
    const std::vector<float> estimates = one.estimates(4, {0, 0, true});
    EXPECT_LE(one.squared_error(estimates), (1 - 0.2 * (1 - 0x1p-7)) * one.energy()) << scale;
    EXPECT_LT(one.squared_error(estimates), 0.6 * one.energy()) << scale;
  }
}

}  // namespace
}  // namespace merak
