#include "sharding/borders.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace merak::sharding {
namespace {

constexpr std::int64_t kPadding = -1;

// What a rank computes its chunk with: elements of the operand by number, and padding.
std::vector<std::int64_t> local(const Borders& borders, std::size_t rank) {
  std::vector<std::int64_t> elements(borders.padding[rank].first, kPadding);
  for (const Range& range : borders.need[rank])
    for (std::int64_t at = range.begin; at < range.end; ++at) elements.push_back(at);
  elements.insert(elements.end(), borders.padding[rank].second, kPadding);
  return elements;
}

// The same, element by element of the chunk's results.
std::vector<std::int64_t> wanted(const Window& window, std::int64_t in, Range chunk) {
  std::vector<std::int64_t> places;
  for (std::int64_t i = chunk.begin; i < chunk.end; ++i)
    for (std::int64_t k = 0; k < window.extent; ++k) places.push_back(i * window.stride - window.before + k);
  if (places.empty()) return {};
  const auto [first, last] = std::minmax_element(places.begin(), places.end());
  std::vector<std::int64_t> elements(*last - *first + 1);
  std::iota(elements.begin(), elements.end(), *first);
  for (std::int64_t& at : elements) {
    if (window.wraps) at = ((at % in) + in) % in;
    if (at < 0 || at >= in) at = kPadding;
  }
  return elements;
}

void check(const Window& window, std::int64_t in, std::int64_t out, int ranks) {
  const Mesh mesh = {{"a", ranks}};
  const Borders borders = borders_of(window, {{in, {0}}}, {{out, {0}}}, mesh);
  const std::int64_t chunk = (out + ranks - 1) / ranks;
  for (int rank = 0; rank < ranks; ++rank) {
    const Range own{std::min(rank * chunk, out), std::min((rank + 1) * chunk, out)};
    EXPECT_EQ(borders.lengths[rank], own.end - own.begin);
    EXPECT_EQ(local(borders, rank), wanted(window, in, own))
        << "rank " << rank << " of " << ranks << ": " << in << " -> " << out << " by stride " << window.stride << ", "
        << window.before << " before, extent " << window.extent << (window.wraps ? ", wrapping" : "");
  }
}

TEST(Borders, AreAllThatAChunkIsComputedFrom) {
  for (int ranks : {1, 2, 3, 4})
    for (std::int64_t in = 1; in < 10; ++in)
      for (std::int64_t stride : {-1, 1, 2, 3})
        for (std::int64_t before = -3; before < 4; ++before)
          for (std::int64_t extent = 1; extent < 5; ++extent)
            for (std::int64_t out : {1, 2, 5, 9}) check({stride, before, extent}, in, out, ranks);
}

TEST(Borders, OfAShiftComeFromTheOtherEnd) {
  for (int ranks : {1, 2, 3, 4})
    for (std::int64_t in = 1; in < 10; ++in)
      for (std::int64_t shift = -in; shift <= in; ++shift) check({1, shift, 1, true}, in, in, ranks);
}

TEST(Borders, OfAConvolutionOfThreeAreARowOfEachNeighbour) {
  const Mesh mesh = {{"a", 3}};
  const Borders borders = borders_of({1, 1, 3}, {{12, {0}}}, {{12, {0}}}, mesh);
  EXPECT_EQ(borders.have[1], (Range{4, 8}));
  EXPECT_EQ(borders.need[1][0], (Range{3, 9}));
  EXPECT_EQ(most_sent(borders), 2);
  EXPECT_EQ(most_received(borders), 2);
}

TEST(Borders, OfChunksOfWholePairs) {  // 6 as 3 x 2, over 2 ranks: four and two
  const Mesh mesh = {{"a", 2}};
  const Pieces pairs = {{3, {0}}, {2, {}}};
  ASSERT_TRUE(is_in_chunks(pairs));
  const Borders borders = borders_of({1, 1, 3}, pairs, {{6, {0}}}, mesh);
  EXPECT_EQ(borders.have[0], (Range{0, 4}));
  EXPECT_EQ(borders.need[0][0], (Range{0, 4}));
  EXPECT_EQ(borders.need[1][0], (Range{2, 6}));
  EXPECT_FALSE(is_in_chunks({{3, {}}, {2, {0}}}));
}

TEST(Borders, OfWhatEveryRankHasAreWithinIt) {
  const Mesh mesh = {{"a", 2}};
  const Borders borders = borders_of({1, 1, 3}, {{6, {}}}, {{6, {0}}}, mesh);
  EXPECT_EQ(borders.have[1], (Range{0, 6}));
  EXPECT_EQ(borders.need[1][0], (Range{2, 6}));
}

}  // namespace
}  // namespace merak::sharding
