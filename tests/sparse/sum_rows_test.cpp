#include "sparse/sum_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

namespace merak {
namespace {

// Sums of no row, of one, of several, some subtracted, with zeros among them; rows of the output in any order, some
// left out.
RowSums random_sums(std::size_t sources, std::size_t targets, std::size_t row_bytes, std::mt19937& random) {
  std::vector<std::uint32_t> rows(targets);
  for (std::uint32_t i = 0; i < targets; ++i) rows[i] = i;
  std::shuffle(rows.begin(), rows.end(), random);
  rows.resize(random() % (targets + 1));
  RowSums sums(row_bytes);
  for (std::uint32_t row : rows) {
    for (std::size_t count = random() % 5; count > 0; --count) {
      const std::uint32_t source = random() % sources;
      if (random() % 6 == 0)
        sums.add(RowSums::kZeros);
      else
        random() % 3 == 0 ? sums.subtract(source) : sums.add(source);
    }
    sums.end_row(row);
  }
  return sums;
}

// Element after element. One source alone keeps its bits, but where it is subtracted; a sum begins with its first
// source.
template <class T>
void sum_obviously(std::vector<T>& to, const std::vector<T>& from, const RowSums& sums, std::size_t lanes,
                   int divisor) {
  using Wide = typename WideOf<T>::type;
  for (std::size_t i = 0; i < sums.rows(); ++i)
    for (std::size_t j = 0; j < lanes; ++j) {
      const auto value = [&](std::uint32_t p) -> T {
        const std::uint32_t source = sums.from[p];
        if (source == RowSums::kZeros) return T(Wide(0));
        const T added = from[(source & 0x7fffffff) * lanes + j];
        if (source < 0x80000000) return added;
        if constexpr (std::is_integral_v<T>)
          return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(added));
        else
          return T(-Wide(added));
      };
      const std::uint32_t begin = sums.first[i], end = sums.first[i + 1];
      T& at = to[sums.at[i] * lanes + j];
      if (divisor == 1 && end == begin + 1) {
        at = value(begin);
        continue;
      }
      Wide sum = begin == end ? Wide(0) : Wide(value(begin));
      for (std::uint32_t p = begin + 1; p < end; ++p) sum = kernels::Sum::of(sum, Wide(value(p)));
      at = T(divisor == 1 ? sum : kernels::divided(sum, divisor));
    }
}

template <class T>
T random_value(std::mt19937& random) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(std::uint64_t{random()} << 33 ^ random());
  else
    return random() % 10 == 0 ? T(-0.0f) : T(std::normal_distribution<float>()(random));
}

template <class T>
void expect_obvious_sums(DType dtype, unsigned seed) {
  std::mt19937 random(seed);
  const std::size_t lanes = 1 + random() % 150, sources = 1 + random() % 20, targets = 1 + random() % 20;
  const int divisor = !std::is_integral_v<T> && random() % 2 == 0 ? 3 : 1;
  const RowSums sums = random_sums(sources, targets, lanes * sizeof(T), random);
  std::vector<T> from(sources * lanes), found(targets * lanes);
  for (T& value : from) value = random_value<T>(random);
  for (T& value : found) value = random_value<T>(random);
  std::vector<T> expected = found;
  sum_obviously(expected, from, sums, lanes, divisor);
  const Reducer reducer = make_sparse_reducer(dtype, Reduction::kSum, 1);
  reducer.sum_rows(reinterpret_cast<std::byte*>(found.data()), reinterpret_cast<const std::byte*>(from.data()), sums,
                   divisor);
  ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(T)), 0) << "seed " << seed;
}

// As a GPU runs the body: four elements an index.
TEST(SumRows, AddsUpStripsThatStandAlone) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    std::mt19937 random(seed);
    const std::size_t lanes = 1 + random() % 20;
    const RowSums sums = random_sums(10, 10, lanes * sizeof(float), random);
    std::vector<float> from(10 * lanes), found(10 * lanes), expected(10 * lanes);
    for (float& value : from) value = random_value<float>(random);
    sum_obviously(expected, from, sums, lanes, 3);
    const SumRows<float, 4> body{
        found.data(), from.data(), sums.at.data(), sums.first.data(), sums.from.data(), lanes, lanes, lanes, 3};
    for_each(OnCpu{}, sums.rows() * body.strips(), body);
    ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)), 0) << "seed " << seed;
  }
}

TEST(SumRows, AddsUpRowsOfAnyWidthBitByBit) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    expect_obvious_sums<float>(DType::kFloat32, seed);
    expect_obvious_sums<double>(DType::kFloat64, seed);
    expect_obvious_sums<Half>(DType::kFloat16, seed);
    expect_obvious_sums<BFloat16>(DType::kBFloat16, seed);
    expect_obvious_sums<std::int32_t>(DType::kInt32, seed);
    expect_obvious_sums<std::int64_t>(DType::kInt64, seed);
  }
}

// Columns of a wider table: rows that lie further apart than they are long.
TEST(SumRows, RowsMayLieAPitchApart) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    std::mt19937 random(seed);
    const std::size_t lanes = 1 + random() % 90, from_pitch = lanes + random() % 9, at_pitch = lanes + random() % 9;
    RowSums sums = random_sums(10, 10, lanes * sizeof(float), random);
    std::vector<float> from(10 * from_pitch), found(10 * at_pitch), packed(10 * lanes), expected(10 * lanes);
    for (float& value : from) value = random_value<float>(random);
    for (std::size_t i = 0; i < packed.size(); ++i) packed[i] = from[i / lanes * from_pitch + i % lanes];
    sum_obviously(expected, packed, sums, lanes, 1);
    sums.at_pitch = at_pitch * sizeof(float), sums.from_pitch = from_pitch * sizeof(float);
    make_sparse_reducer(DType::kFloat32, Reduction::kSum, 1)
        .sum_rows(reinterpret_cast<std::byte*>(found.data()), reinterpret_cast<const std::byte*>(from.data()), sums, 1);
    for (std::size_t i = 0; i < found.size(); ++i) {
      const float value = i % at_pitch < lanes ? expected[i / at_pitch * lanes + i % at_pitch] : 0.0f;
      ASSERT_EQ(found[i], value) << "seed " << seed << ", element " << i;
    }
  }
}

TEST(SumRows, TooManyRowsAreRefused) {
  RowSums sums(4);
  sums.add(RowSums::kMostRows - 1);
  EXPECT_THROW(sums.add(RowSums::kMostRows), std::length_error);
  EXPECT_THROW(sums.subtract(RowSums::kMinus), std::length_error);
}

}  // namespace
}  // namespace merak
