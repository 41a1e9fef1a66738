#include "sparse/own_rows.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "transport/vectorise.h"

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

MERAK_VECTORISE

constexpr std::size_t kLineBytes = 64, kBlockBytes = 512;
constexpr std::size_t kRowsAhead = 4;

MERAK_VECTORISE

// `Size`: a constant of the type, or a number.
template <class Size>
bool any_bit(const std::byte* at, Size bytes) {
  std::uint64_t seen = 0;
  std::size_t i = 0;
  for (std::uint64_t word = 0; i + sizeof(word) <= bytes; i += sizeof(word)) {
    std::memcpy(&word, at + i, sizeof(word));
    seen |= word;
  }
  for (; i < bytes; ++i) seen |= static_cast<std::uint64_t>(at[i]);
  return seen != 0;
}

// Whether a row has any bit set. Rows that have mostly show it in their first cache line; the others are read in
// blocks.
struct AnyBit {
  const std::byte* table;
  std::size_t row_bytes;

  bool operator()(std::size_t row) const {
    const std::byte* at = table + row * row_bytes;
    __builtin_prefetch(at + kRowsAhead * row_bytes);
    if (any_bit(at, std::min(row_bytes, kLineBytes))) return true;
    std::size_t i = 0;
    for (; i + kBlockBytes <= row_bytes; i += kBlockBytes)
      if (any_bit(at + i, std::integral_constant<std::size_t, kBlockBytes>())) return true;
    return any_bit(at + i, row_bytes - i);
  }
};

MERAK_VECTORISE_END

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
  with_longest_vectors(AnyBit{table, row_bytes}, [&](const auto& any) {
    for (std::size_t row = 0; row < table_rows; ++row) {
      if (!any(row)) continue;
      own.present.set(row);
      own.input.push_back(static_cast<std::uint32_t>(row));
      own.first.push_back(static_cast<std::uint32_t>(own.input.size()));
    }
  });
  return own;
}

}  // namespace merak
