#pragma once
// Sums of rows, as data: what a kSumRows step computes. Gathering rows, scattering them, adding up duplicates and
// adding up what ranks contributed are all of this kind; so are sketches, which subtract rows, too.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "transport/host_device.h"

namespace merak {

// Row at[i] of one place = the sum of the rows from[first[i]] to from[first[i + 1] - 1] of another, in that order, the
// partial sums kept as wide as fp32 at least. One row alone is copied, bit by bit (if it is not subtracted); the sum of
// none is zeros.
//
// Rows of a place lie one behind the other; or, as columns of a wider table do, a *pitch* apart.
//
// Nobody reads what another row's sum writes. Where both places are the same, a row may be among its own sources.
struct RowSums {
  // Among the sources: a row of positive zeros. It turns a sum of negative zeros into a positive one, as adding the
  // zeros of the ranks that contribute nothing does.
  static constexpr std::uint32_t kZeros = UINT32_MAX;
  // With it a source is subtracted.
  static constexpr std::uint32_t kMinus = 1u << 31;
  static constexpr std::uint32_t kMostRows = kMinus - 1;  // of the place they come from

  MERAK_HD static bool is_minus(std::uint32_t source) { return (source & kMinus) != 0; }   // kZeros: no matter
  MERAK_HD static std::uint32_t row_of(std::uint32_t source) { return source & ~kMinus; }  // not of kZeros

  std::size_t row_bytes = 0;
  std::size_t at_pitch = 0, from_pitch = 0;  // bytes from the begin of a row to that of the next
  std::vector<std::uint32_t> at;
  std::vector<std::uint32_t> first = {0};
  std::vector<std::uint32_t> from;

  explicit RowSums(std::size_t bytes_of_a_row = 0)
      : row_bytes(bytes_of_a_row), at_pitch(bytes_of_a_row), from_pitch(bytes_of_a_row) {}
  bool operator==(const RowSums&) const = default;

  // Adds a source of the row that the next end_row() completes.
  void add(std::uint32_t source) {
    if (source >= kMostRows && source != kZeros) too_many(source);
    from.push_back(source);
  }
  void subtract(std::uint32_t source) {
    add(source);
    from.back() |= kMinus;
  }
  void end_row(std::uint32_t row) {
    at.push_back(row);
    first.push_back(static_cast<std::uint32_t>(from.size()));
  }
  void copy_row(std::uint32_t row, std::uint32_t source) {
    add(source);
    end_row(row);
  }

  std::size_t rows() const { return at.size(); }
  std::size_t bytes() const { return rows() * row_bytes; }

  // How far the two places must reach.
  std::size_t at_bytes() const {
    return at.empty() ? 0 : *std::max_element(at.begin(), at.end()) * at_pitch + row_bytes;
  }
  std::size_t from_bytes() const {
    std::size_t end = 0;
    for (std::uint32_t source : from)
      if (source != kZeros) end = std::max(end, row_of(source) * from_pitch + row_bytes);
    return end;
  }

 private:
  [[noreturn]] static void too_many(std::uint32_t source) {
    throw std::length_error("row " + std::to_string(source) + " is one of more than " + std::to_string(kMostRows) +
                            ", too many to be added up");
  }
};

}  // namespace merak
