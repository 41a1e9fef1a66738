#include "embedding/square_sums.h"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>
#include <vector>

#include "collectives/half.h"

namespace merak {
namespace {

constexpr std::size_t kRows = 5;

template <class T>
std::vector<T> values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> drawn;
  for (std::size_t i = 0; i < count; ++i) drawn.push_back(T(std::normal_distribution<float>()(random)));
  return drawn;
}

template <class T, class Wide>
void check(DType dtype, double error) {
  for (const std::size_t columns : {0, 1, 7, 15, 16, 17, 32, 100}) {
    const std::vector<T> rows = values<T>(kRows * columns, static_cast<unsigned>(columns));
    std::vector<Wide> sums(kRows, -1);
    square_sums(dtype, rows.data(), kRows, columns, sums.data());
    for (std::size_t i = 0; i < kRows; ++i) {
      double obvious = 0;
      for (std::size_t j = 0; j < columns; ++j) {
        const auto element = static_cast<double>(static_cast<Wide>(rows[i * columns + j]));
        obvious += element * element;
      }
      EXPECT_NEAR(static_cast<double>(sums[i]), obvious, error * (obvious + 1)) << columns << " columns, row " << i;
    }
  }
}

TEST(SquareSums, AreThoseOfPlainLoops) {
  check<double, double>(DType::kFloat64, 1e-14);
  check<float, float>(DType::kFloat32, 1e-6);
  check<BFloat16, float>(DType::kBFloat16, 1e-6);
  check<Half, float>(DType::kFloat16, 1e-6);
}

TEST(SquareSums, ARowAloneHasTheSameBits) {
  constexpr std::size_t kColumns = 37;
  const std::vector<float> rows = values<float>(kRows * kColumns, 3);
  std::vector<float> together(kRows), alone(kRows);
  square_sums(DType::kFloat32, rows.data(), kRows, kColumns, together.data());
  for (std::size_t i = 0; i < kRows; ++i)
    square_sums(DType::kFloat32, rows.data() + i * kColumns, 1, kColumns, &alone[i]);
  EXPECT_EQ(together, alone);
}

TEST(SquareSums, IntegersAreRefused) {
  EXPECT_THROW(square_sums(DType::kInt32, nullptr, 0, 1, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace merak
