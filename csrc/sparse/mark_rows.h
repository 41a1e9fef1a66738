#pragma once
// Which rows of a dense table have any bit set: one body, run over CPU threads and over a GPU's grid.
//
// A row is looked at in *strips* of so many neighbouring words, each by one index: on a GPU short ones, which
// neighbouring threads read side by side; on a CPU whole rows, of which little more is read than up to the first bit.

#include <cstddef>
#include <cstdint>

#include "transport/atomic_or.h"
#include "transport/host_device.h"

namespace merak {

template <class Word>
struct MarkRows {
  const Word* table;
  std::uint64_t* present;     // a bit a row, all zero before
  std::size_t words, length;  // of a row, of a strip

  MERAK_HD std::size_t strips() const { return (words + length - 1) / length; }  // of a row

  MERAK_HD void operator()(std::size_t i) const {
    const std::size_t row = i / strips(), begin = i % strips() * length;
    const std::size_t count = words - begin < length ? words - begin : length;
    if (any(table + row * words + begin, count)) atomic_or(present + row / 64, std::uint64_t{1} << row % 64);
  }

 private:
  static constexpr std::size_t kAtOnce = 64 / sizeof(Word);  // a line of the cache

  MERAK_HD static bool any(const Word* values, std::size_t count) {
    Word seen = 0;
    std::size_t i = 0;
    for (; i + kAtOnce <= count && seen == 0; i += kAtOnce)
      for (std::size_t j = 0; j < kAtOnce; ++j) seen |= values[i + j];
    for (; i < count && seen == 0; ++i) seen |= values[i];
    return seen != 0;
  }
};

// Calls visit(Word()) with an unsigned word as long as an element: so all are well aligned.
template <class Visit>
void with_word(std::size_t element_bytes, Visit visit) {
  if (element_bytes % 8 == 0)
    visit(std::uint64_t());
  else if (element_bytes == 4)
    visit(std::uint32_t());
  else if (element_bytes == 2)
    visit(std::uint16_t());
  else
    visit(std::uint8_t());
}

}  // namespace merak
