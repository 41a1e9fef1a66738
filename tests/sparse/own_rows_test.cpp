#include "sparse/own_rows.h"

#include <gtest/gtest.h>

#include <random>

namespace merak {
namespace {

// Rows of all widths about those of cache lines and blocks, at most one byte of each set.
TEST(OwnRows, OfADenseTableAreThoseWithAnyBit) {
  std::mt19937 random(1);
  for (std::size_t row_bytes : {1, 7, 8, 63, 64, 65, 576, 577, 640, 2048, 2050}) {
    constexpr std::size_t kRows = 300;
    std::vector<std::byte> table(kRows * row_bytes);
    std::vector<std::uint32_t> expected;
    for (std::uint32_t row = 0; row < kRows; ++row) {
      if (random() % 3 == 0) continue;
      table[row * row_bytes + random() % row_bytes] = std::byte{1} << random() % 8;
      expected.push_back(row);
    }
    const OwnRows own = own_rows_of_dense(present_rows(table.data(), kRows, row_bytes, 1));
    EXPECT_EQ(own.present.members(), expected) << row_bytes << " bytes a row";
    EXPECT_EQ(own.input, expected);
  }
}

}  // namespace
}  // namespace merak
