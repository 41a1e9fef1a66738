#pragma once
// Which rows of a dense table have any bit set: one body, run over CPU threads and over a GPU's grid.
//
// A row is looked at in *strips* of so many neighbouring words, each by one index: on a GPU short ones, which
// neighbouring threads read side by side; on a CPU whole rows, of which little more is read than up to the first bit.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "transport/atomic_or.h"
#include "transport/host_device.h"
#include "transport/vectorise.h"

namespace merak {

MERAK_VECTORISE

template <class Word>
struct MarkRows {
  const Word* table;
  std::uint64_t* present;     // a bit a row, all zero before
  std::size_t words, length;  // of a row, of a strip

  MERAK_HD std::size_t strips() const { return (words + length - 1) / length; }  // of a row

  MERAK_HD void operator()(std::size_t i) const {
    const std::size_t row = i / strips(), begin = i % strips() * length;
    const std::size_t count = words - begin < length ? words - begin : length;
    const Word* strip = table + row * words + begin;
#ifndef __CUDA_ARCH__
    __builtin_prefetch(strip + kRowsAhead * words);  // where rows end early the processor does not see the next coming
#endif
    if (any(strip, count)) atomic_or(present + row / 64, std::uint64_t{1} << row % 64);
  }

 private:
  static constexpr std::size_t kRowsAhead = 4;
  static constexpr std::size_t kLine = 64 / sizeof(Word), kBlock = 512 / sizeof(Word);

  // What has any bit set mostly shows it in its first line of the cache; the rest is read in blocks.
  MERAK_HD static bool any(const Word* values, std::size_t count) {
    if (any_of(values, count < kLine ? count : kLine)) return true;
    std::size_t i = 0;
    for (; i + kBlock <= count; i += kBlock)
      if (any_of(values + i, std::integral_constant<std::size_t, kBlock>())) return true;
    return any_of(values + i, count - i);
  }

  // `Count`: a constant of the type, or a number.
  template <class Count>
  MERAK_HD static bool any_of(const Word* values, Count count) {
    Word seen = 0;
    for (std::size_t i = 0; i < count; ++i) seen |= values[i];
    return seen != 0;
  }
};

MERAK_VECTORISE_END

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
