#include "sparse/encode.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace merak {
namespace {

struct Placed {
  std::vector<std::uint32_t> cell_of;
  std::vector<std::int8_t> sign_of;
};

Placed random_places(std::size_t rows, std::uint32_t cells, std::mt19937& random) {
  Placed placed;
  for (std::size_t i = 0; i < rows; ++i) {
    placed.cell_of.push_back(random() % cells);
    placed.sign_of.push_back(random() % 2 == 0 ? 1 : -1);
  }
  return placed;
}

// Row after row into cells of zeros.
template <class T, class Wide>
std::vector<Wide> expected_cells(const std::vector<T>& rows, const Placed& placed, std::size_t cells,
                                 std::size_t lanes) {
  std::vector<Wide> sums(cells * lanes);
  for (std::size_t i = 0; i < placed.cell_of.size(); ++i)
    for (std::size_t j = 0; j < lanes; ++j)
      sums[placed.cell_of[i] * lanes + j] += static_cast<Wide>(placed.sign_of[i]) * Wide(rows[i * lanes + j]);
  return sums;
}

template <class T>
class Encode : public testing::Test {};
using Types = testing::Types<float, double, Half, BFloat16>;
TYPED_TEST_SUITE(Encode, Types);

TYPED_TEST(Encode, IsTheSumOfSignedRowsBitByBit) {
  using Wide = typename WideOf<TypeParam>::type;
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const std::size_t rows = random() % 60, lanes = 1 + random() % 100;
    const std::uint32_t cells = 1 + random() % 40;
    std::normal_distribution<float> draw;
    std::vector<TypeParam> values;
    for (std::size_t i = 0; i < rows * lanes; ++i) values.push_back(TypeParam(draw(random)));
    const Placed placed = random_places(rows, cells, random);
    const SignedRows lists = group_by_cell(placed.cell_of, placed.sign_of, cells);
    std::vector<Wide> found(cells * lanes, Wide(77)), strips = found;
    encode_rows(found.data(), values.data(), lists, lanes);
    const EncodeRows<TypeParam, 4> body{strips.data(),     values.data(),      lists.first.data(),
                                        lists.from.data(), lists.signs.data(), lanes};
    for_each(OnCpu{}, cells * body.strips(), body);  // as a GPU runs it
    const auto expected = expected_cells<TypeParam, Wide>(values, placed, cells, lanes);
    ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(Wide)), 0) << "seed " << seed;
    ASSERT_EQ(std::memcmp(strips.data(), expected.data(), found.size() * sizeof(Wide)), 0) << "seed " << seed;
  }
}

TEST(GroupByCell, KeepsTheOrderOfRows) {
  const std::vector<std::uint32_t> cell_of = {2, 0, 2, 3, 0};
  const std::vector<std::int8_t> sign_of = {1, -1, -1, 1, 1};
  const SignedRows lists = group_by_cell(cell_of, sign_of, 5);
  EXPECT_EQ(lists.cells(), 5u);
  EXPECT_EQ(lists.first, (std::vector<std::uint32_t>{0, 2, 2, 4, 5, 5}));
  EXPECT_EQ(lists.from, (std::vector<std::uint32_t>{1, 4, 0, 2, 3}));
  EXPECT_EQ(lists.signs, (std::vector<std::int8_t>{-1, 1, 1, -1, 1}));
}

}  // namespace
}  // namespace merak
