#include "sparse/own_rows.h"

#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "sparse/mark_rows.h"
#include "transport/for_each.h"

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

Bitmap present_rows(const std::byte* table, std::size_t table_rows, std::size_t row_bytes, std::size_t element_bytes) {
  Bitmap present(table_rows);
  with_word(element_bytes, [&]<class Word>(Word) {
    const std::size_t words = row_bytes / sizeof(Word);
    with_longest_vectors(MarkRows<Word>{reinterpret_cast<const Word*>(table), present.data(), words, words},
                         [&](const auto& mark) { for_each(OnCpu{}, table_rows, mark); });
  });
  return present;
}

OwnRows own_rows_of_dense(Bitmap present) {
  OwnRows own{std::move(present), {}, {}};
  own.input = own.present.members();
  own.first.resize(own.input.size() + 1);
  std::iota(own.first.begin(), own.first.end(), 0u);
  return own;
}

}  // namespace merak
