// Which rows of a dense table have any bit set, as a GPU looks at them and as a CPU does.

#include "sparse/mark_rows.h"

#include <gtest/gtest.h>

#include <random>

#include "sparse/own_rows.h"
#include "transport/for_each.h"

namespace merak {
namespace {

struct Table {
  std::size_t rows, row_bytes, element_bytes;
  std::vector<std::uint64_t> memory;  // well aligned

  std::byte* data() { return reinterpret_cast<std::byte*>(memory.data()); }
};

// Some rows have one bit somewhere.
Table random_table(unsigned seed, Bitmap& expected) {
  std::mt19937 random(seed);
  constexpr std::size_t kElements[] = {1, 2, 4, 8};
  Table table{random() % 300, 0, kElements[random() % 4], {}};
  table.row_bytes = (1 + random() % 60) * table.element_bytes;
  table.memory.resize(table.rows * table.row_bytes / 8 + 1);
  expected = Bitmap(table.rows);
  for (std::size_t row = 0; row < table.rows; ++row) {
    if (random() % 3 != 0) continue;
    table.data()[row * table.row_bytes + random() % table.row_bytes] = std::byte{1} << random() % 8;
    expected.set(row);
  }
  return table;
}

TEST(MarkRows, FindsEveryBit) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Bitmap expected, marked;
    Table table = random_table(seed, expected);
    EXPECT_EQ(present_rows(table.data(), table.rows, table.row_bytes, table.element_bytes), expected);
    for (const std::size_t strip_bytes : {8, 16, 64}) {
      marked = Bitmap(table.rows);
      with_word(table.element_bytes, [&]<class Word>(Word) {
        ASSERT_EQ(sizeof(Word), table.element_bytes);
        const MarkRows<Word> body{reinterpret_cast<const Word*>(table.data()), marked.data(),
                                  table.row_bytes / sizeof(Word), strip_bytes / sizeof(Word)};
        for_each(OnCpu{}, table.rows * body.strips(), body);
      });
      ASSERT_EQ(marked, expected) << strip_bytes;
    }
  }
}

struct SetBit {
  std::uint64_t* words;
  MERAK_HD void operator()(std::size_t i) const { atomic_or(words + i / 64 % 16, std::uint64_t{1} << i % 64); }
};

TEST(AtomicOr, ThreadsSetBitsOfTheSameWords) {
  std::vector<std::uint64_t> words(16);
  for_each(OnCpu{4}, 8 * kIndicesPerThread, SetBit{words.data()});
  EXPECT_EQ(words, std::vector<std::uint64_t>(16, ~std::uint64_t{0}));
}

}  // namespace
}  // namespace merak
