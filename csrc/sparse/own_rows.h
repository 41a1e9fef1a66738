#pragma once
// What one rank contributes to a sparse operation: which rows of the table, and where its input holds them. An input
// that was never coalesced may hold a row several times; they are added up when the row is packed, in the order in
// which they stand.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sparse/bitmap.h"

namespace merak {

struct OwnRows {
  Bitmap present;                    // by row of the table
  std::vector<std::uint32_t> first;  // contributed row p, in ascending order, stands in the input at
  std::vector<std::uint32_t> input;  // input[first[p]], ..., input[first[p + 1] - 1]

  std::span<const std::uint32_t> at(std::uint32_t position) const {
    return {input.data() + first[position], input.data() + first[position + 1]};
  }
};

// `ids`: for each row of the input, the table's row. Throws std::out_of_range, naming the first that is not below
// `table_rows`.
OwnRows own_rows(std::span<const std::int64_t> ids, std::size_t table_rows);

// Of a dense table: the rows with any bit set. (A row of negative zeros counts; one that sums to zero, too.)
Bitmap present_rows(const std::byte* table, std::size_t table_rows, std::size_t row_bytes, std::size_t element_bytes);
// Of a dense table of which these rows are contributed.
OwnRows own_rows_of_dense(Bitmap present);

}  // namespace merak
