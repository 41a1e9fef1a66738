#include "sparse/own_rows.h"

#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

namespace merak {
namespace {

Bitmap presence_of(std::span<const std::int64_t> ids, std::size_t table_rows) {
  Bitmap present(table_rows);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<std::uint64_t>(ids[i]) >= table_rows)
      throw std::out_of_range("index " + std::to_string(ids[i]) + ", at position " + std::to_string(i) +
                              ", is not a row of a tensor of " + std::to_string(table_rows) + " rows");
    present.set(static_cast<std::size_t>(ids[i]));
  }
  return present;
}

bool any_bit(const std::byte* row, std::size_t bytes) {
  std::uint64_t seen = 0;
  std::size_t i = 0;
  for (; i + 64 <= bytes && seen == 0; i += 64) {
    std::uint64_t words[8];
    std::memcpy(words, row + i, 64);
    for (std::uint64_t word : words) seen |= word;
  }
  for (; i < bytes && seen == 0; ++i) seen |= static_cast<std::uint64_t>(row[i]);
  return seen != 0;
}

}  // namespace

OwnRows own_rows(std::span<const std::int64_t> ids, std::size_t table_rows) {
  OwnRows own{presence_of(ids, table_rows), {}, std::vector<std::uint32_t>(ids.size())};
  const Positions position(own.present);
  own.first.assign(own.present.count() + 2, 0);
  for (std::int64_t id : ids) ++own.first[position(static_cast<std::size_t>(id)) + 2];
  std::partial_sum(own.first.begin(), own.first.end(), own.first.begin());
  for (std::size_t i = 0; i < ids.size(); ++i)  // first[p + 1] moves from where row p begins to where it ends
    own.input[own.first[position(static_cast<std::size_t>(ids[i])) + 1]++] = static_cast<std::uint32_t>(i);
  own.first.pop_back();
  return own;
}

OwnRows own_rows_of_dense(const std::byte* table, std::size_t table_rows, std::size_t row_bytes) {
  OwnRows own{Bitmap(table_rows), {0}, {}};
  for (std::size_t row = 0; row < table_rows; ++row) {
    if (!any_bit(table + row * row_bytes, row_bytes)) continue;
    own.present.set(row);
    own.input.push_back(static_cast<std::uint32_t>(row));
    own.first.push_back(static_cast<std::uint32_t>(own.input.size()));
  }
  return own;
}

}  // namespace merak
