#include "embedding/batch.h"

#include <algorithm>
#include <utility>

namespace merak {
namespace {

// The places of those rows in a list that ascends.
Interval places(const std::vector<std::uint32_t>& list, const Interval& rows) {
  const auto place = [&](std::size_t row) {
    return static_cast<std::size_t>(std::lower_bound(list.begin(), list.end(), row) - list.begin());
  };
  return {place(rows.begin), place(rows.end)};
}

// `kept(row)`: whether the part has that row.
template <class Kept>
OwnRows part_of(const OwnRows& own, Kept kept) {
  OwnRows part{Bitmap(own.present.bits()), {0}, {}};
  for (std::uint32_t position = 0; std::uint32_t row : own.present.members()) {
    const auto tokens = own.at(position++);
    if (!kept(row)) continue;
    part.present.set(row);
    part.input.insert(part.input.end(), tokens.begin(), tokens.end());
    part.first.push_back(static_cast<std::uint32_t>(part.input.size()));
  }
  return part;
}

template <class Kept>
Batch part_of(const Batch& batch, Kept kept) {
  std::vector<Bitmap> present;
  for (const std::vector<std::uint32_t>& read : batch.read) {
    Bitmap& part = present.emplace_back(batch.split.table_rows);
    for (std::uint32_t row : read)
      if (kept(row)) part.set(row);
  }
  Batch part = make_batch(batch.rank, batch.split, batch.element_bytes, part_of(batch.own, kept), present);
  part.tokens = batch.tokens;
  return part;
}

}  // namespace

Interval Batch::held(int holder, int reader) const {
  return places(read[static_cast<std::size_t>(reader)], split.rows(holder));
}

Interval Batch::held() const { return places(rows.ids, split.rows(rank)); }

std::vector<std::uint32_t> Batch::held_ids() const {
  std::vector<std::uint32_t> ids;
  const Interval mine = held();
  const auto first = static_cast<std::uint32_t>(split.rows(rank).begin);
  for (std::size_t u = mine.begin; u < mine.end; ++u) ids.push_back(rows.ids[u] - first);
  return ids;
}

Batch make_batch(int rank, const Split& split, std::size_t element_bytes, OwnRows own,
                 const std::vector<Bitmap>& present) {
  const std::size_t tokens = own.input.size();
  Batch batch{rank, split, element_bytes, tokens, std::move(own), {}, unite(present)};
  for (const Bitmap& of_rank : present) batch.read.push_back(of_rank.members());
  return batch;
}

Batch part_among(const Batch& batch, const Bitmap& rows) {
  return part_of(batch, [&](std::uint32_t row) { return rows.test(row); });
}

Batch part_beyond(const Batch& batch, const Bitmap& rows) {
  return part_of(batch, [&](std::uint32_t row) { return !rows.test(row); });
}

Batch without_row(const Batch& batch, std::uint32_t row) {
  return part_of(batch, [&](std::uint32_t one) { return one != row; });
}

Bitmap rows_read(const Batch& batch) {
  Bitmap read(batch.split.table_rows);
  for (std::uint32_t row : batch.rows.ids) read.set(row);
  return read;
}

}  // namespace merak
