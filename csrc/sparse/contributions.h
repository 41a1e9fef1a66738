#pragma once
// What the programs of this room are made from: what one rank contributes to one table, and what all contribute.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse/own_rows.h"
#include "sparse/union_rows.h"
#include "transport/program.h"

namespace merak {

// Buffers of all programs that are made from it. Input: this rank's rows, as they came (own_rows.h). Output: the rows
// of the union, ascending; or the whole table, where the others are left alone.
struct Contributions {
  const UnionRows& rows;
  const OwnRows& own;
  int rank;
  std::size_t row_bytes;
  // Sums begin with positive zeros, as if all ranks had the rows that they do not contribute as zeros. (Else rows that
  // every rank contributes do not.)
  bool from_zeros = true;
  bool into_table = false;
  // Of another rank, for those who want to know its messages and what they come after: what it adds up is left out, and
  // what it has of a row is not looked at.
  bool only_messages = false;
  const std::vector<std::uint32_t>* output_rows = nullptr;  // by row of the union, where it is neither

  static constexpr std::uint32_t kNoRow = UINT32_MAX;

  // Where the output has row u of the union; kNoRow: nowhere.
  std::uint32_t output_row(std::uint32_t u) const {
    if (output_rows != nullptr) return (*output_rows)[u];
    return into_table ? rows.ids[u] : u;
  }

  std::uint32_t ranks() const { return static_cast<std::uint32_t>(rows.size); }
  std::uint32_t self() const { return static_cast<std::uint32_t>(rank); }

  bool contributes(std::uint32_t of_rank, std::uint32_t u) const {
    const auto contributors = rows.of(u);
    return std::binary_search(contributors.begin(), contributors.end(), of_rank);
  }

  // By row of the union, where this rank contributes it: which of its own rows it is.
  std::vector<std::uint32_t> positions() const {
    std::vector<std::uint32_t> positions(only_messages ? 0 : rows.rows());
    for (std::uint32_t u = 0, next = 0; u < positions.size(); ++u)
      if (contributes(self(), u)) positions[u] = next++;
    return positions;
  }

  // Sums that fill(sums) makes.
  template <class Fill>
  RowSums sums(Fill fill) const {
    RowSums sums(row_bytes);
    if (!only_messages) fill(sums);
    return sums;
  }

  void begin_sum(RowSums& sums, std::uint32_t u) const {
    if (from_zeros || rows.of(u).size() < ranks()) sums.add(RowSums::kZeros);
  }
};

}  // namespace merak
