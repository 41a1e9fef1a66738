// Copies of boxes against copies of single bytes, as a CPU makes them and as a GPU does.

#include "transport/strided_copy.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "transport/for_each.h"

namespace merak {
namespace {

// Dimensions that rise on both sides, in one order each, with gaps; everything a multiple of `unit` bytes.
StridedCopy random_copy(std::mt19937& random, std::size_t unit) {
  StridedCopy copy;
  copy.piece_bytes = (random() % 6) * unit;
  std::size_t at = copy.piece_bytes, from = copy.piece_bytes;
  for (unsigned dims = random() % 5; dims > 0; --dims) {
    const std::size_t count = random() % 5;
    at += random() % 3 * unit, from += random() % 3 * unit;
    copy.add_outer({count, at, from});
    at *= std::max<std::size_t>(count, 1), from *= std::max<std::size_t>(count, 1);
  }
  return copy;
}

std::vector<std::byte> noise(std::mt19937& random, std::size_t bytes) {
  std::vector<std::byte> made(bytes);
  for (std::byte& byte : made) byte = static_cast<std::byte>(random());
  return made;
}

TEST(StridedCopy, CopiesEveryPieceAndNothingElse) {
  constexpr std::size_t kUnits[] = {1, 2, 4, 8, 16};
  for (unsigned seed = 0; seed < 1000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const StridedCopy copy = random_copy(random, kUnits[random() % 5]);
    const std::size_t offset = random() % 3 == 0 ? random() % 16 : 0;  // some are aligned badly
    const std::vector<std::byte> from = noise(random, copy.from_bytes() + offset);
    const std::vector<std::byte> before = noise(random, copy.at_bytes() + 16);
    std::vector<std::byte> expected = before;
    std::size_t pieces = 0;
    copy.for_each_piece([&](std::size_t at, std::size_t source) {
      for (std::size_t i = 0; i < copy.piece_bytes; ++i) expected[at + i] = from[offset + source + i];
      ++pieces;
    });
    EXPECT_EQ(pieces * copy.piece_bytes, copy.bytes());
    std::vector<std::byte> at = before;
    copy_strided(at.data(), from.data() + offset, copy);
    ASSERT_EQ(at, expected);
    for (std::size_t share : {1, 3, 64}) {
      at = before;
      with_copy_body(at.data(), from.data() + offset, copy, share,
                     [](const auto& body, std::size_t lines) { for_each(OnCpu{}, lines * body.shares(), body); });
      ASSERT_EQ(at, expected) << "shares of " << share;
    }
  }
}

// The pieces of nested loops, whatever add_outer() joins.
TEST(StridedCopy, JoinsDimensionsWithoutChangingWhatIsCopied) {
  std::size_t joined = 0;
  for (unsigned seed = 0; seed < 1000; ++seed) {
    std::mt19937 random(seed);
    StridedCopy copy;
    copy.piece_bytes = 1 + random() % 3;
    std::vector<std::pair<std::size_t, std::size_t>> bytes;  // at, from
    for (std::size_t i = 0; i < copy.piece_bytes; ++i) bytes.emplace_back(i, i);
    std::size_t at = copy.piece_bytes, from = copy.piece_bytes, dims = 0;
    for (unsigned left = random() % 4; left > 0; --left) {
      const std::size_t count = 1 + random() % 4;
      at += random() % 2, from += random() % 2, dims += count > 1;
      copy.add_outer({count, at, from});
      std::vector<std::pair<std::size_t, std::size_t>> more;
      for (std::size_t i = 0; i < count; ++i)
        for (auto [to, source] : bytes) more.emplace_back(to + i * at, source + i * from);
      bytes = std::move(more);
      at *= count, from *= count;
    }
    std::vector<std::pair<std::size_t, std::size_t>> found;
    copy.for_each_piece([&](std::size_t to, std::size_t source) {
      for (std::size_t i = 0; i < copy.piece_bytes; ++i) found.emplace_back(to + i, source + i);
    });
    ASSERT_EQ(found, bytes) << "seed " << seed;
    joined += copy.dim_count < dims;
  }
  EXPECT_GT(joined, 100u);
}

TEST(StridedCopy, HasSoManyDimensionsAtMost) {
  StridedCopy copy;
  copy.piece_bytes = 1;
  for (std::size_t k = 0, stride = 2; k < StridedCopy::kMostDims; ++k, stride *= 4) copy.add_outer({2, stride, stride});
  EXPECT_THROW(copy.add_outer({2, 1 << 20, 1 << 20}), std::length_error);
}

}  // namespace
}  // namespace merak
