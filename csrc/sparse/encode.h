#pragma once
// The sketch of one hash function with signs: every row is added to one cell, or subtracted from it.
//
// The rows are grouped by cell beforehand, so that each cell is added up in one go and written once: no atomics, and
// the same bits from run to run. Memory traffic: every row read once, every cell written once.
//
// Source: M. Charikar et al., "Finding frequent items in data streams", 2002.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sparse/sum_rows.h"

namespace merak {

// Cell c is the sum of rows from[first[c]], ..., from[first[c + 1] - 1], each times its sign, added to zeros in that
// order.
struct SignedRows {
  std::vector<std::uint32_t> first;
  std::vector<std::uint32_t> from;
  std::vector<std::int8_t> signs;  // of each in `from`: 1 or -1

  std::size_t cells() const { return first.size() - 1; }
};

// Row i goes to cell cell_of[i], which must be below `cells`, with the sign sign_of[i]. Rows of a cell in ascending
// order.
SignedRows group_by_cell(std::span<const std::uint32_t> cell_of, std::span<const std::int8_t> sign_of,
                         std::uint32_t cells);

MERAK_VECTORISE

template <class T, std::size_t kStrip>
struct EncodeRows {
  using Element = T;
  using Wide = typename WideOf<T>::type;

  Wide* cells;
  const T* from;
  const std::uint32_t *first, *sources;  // of SignedRows: first, from
  const std::int8_t* signs;
  std::size_t elements;  // of a row, and of a cell

  MERAK_HD std::size_t strips() const { return (elements + kStrip - 1) / kStrip; }

  MERAK_HD void operator()(std::size_t i) const { strip(i / strips(), i % strips() * kStrip); }

  // The strip of a cell that begins at an element of it.
  MERAK_HD void strip(std::size_t cell, std::size_t begin) const {
    if (elements - begin >= kStrip)
      sum(cell, begin, std::integral_constant<std::size_t, kStrip>());
    else
      sum(cell, begin, elements - begin);
  }

 private:
  // `Count`: a constant of the type where it can be, so that the partial sums lie in registers.
  template <class Count>
  MERAK_HD void sum(std::size_t cell, std::size_t begin, Count count) const {
    Wide sums[kStrip];
    for (std::size_t j = 0; j < count; ++j) sums[j] = 0;
    for (std::uint32_t next = first[cell]; next < first[cell + 1]; ++next) {
      const T* row = from + sources[next] * elements + begin;
      const auto sign = static_cast<Wide>(signs[next]);
      for (std::size_t j = 0; j < count; ++j) sums[j] += sign * Wide(row[j]);
    }
    for (std::size_t j = 0; j < count; ++j) cells[cell * elements + begin + j] = sums[j];
  }
};

MERAK_VECTORISE_END

// Fills `cells`, lists.cells() of them, from `rows`, both of `lanes` elements each; what was in them is lost. 16-bit
// elements are added up, and given, as fp32.
void encode_rows(float* cells, const float* rows, const SignedRows& lists, std::size_t lanes);
void encode_rows(double* cells, const double* rows, const SignedRows& lists, std::size_t lanes);
void encode_rows(float* cells, const Half* rows, const SignedRows& lists, std::size_t lanes);
void encode_rows(float* cells, const BFloat16* rows, const SignedRows& lists, std::size_t lanes);

}  // namespace merak
