#include "embedding/batch.h"

#include <utility>

namespace merak {
namespace {

OwnRows without_row(const OwnRows& own, std::uint32_t row) {
  OwnRows left{own.present, {0}, {}};
  left.present.reset(row);
  for (std::uint32_t position = 0; std::uint32_t one : own.present.members()) {
    const auto tokens = own.at(position++);
    if (one == row) continue;
    left.input.insert(left.input.end(), tokens.begin(), tokens.end());
    left.first.push_back(static_cast<std::uint32_t>(left.input.size()));
  }
  return left;
}

}  // namespace

Batch make_batch(int rank, const Columns& columns, std::size_t element_bytes, OwnRows own,
                 const std::vector<Bitmap>& present) {
  Batch batch{rank, present.front().bits(), columns, element_bytes, std::move(own), {}, unite(present)};
  for (const Bitmap& of_rank : present) batch.read.push_back(of_rank.members());
  return batch;
}

Batch without_row(const Batch& batch, std::uint32_t row) {
  std::vector<Bitmap> present;
  for (const std::vector<std::uint32_t>& read : batch.read) {
    Bitmap& left = present.emplace_back(batch.table_rows);
    for (std::uint32_t one : read)
      if (one != row) left.set(one);
  }
  return make_batch(batch.rank, batch.columns, batch.element_bytes, without_row(batch.own, row), present);
}

}  // namespace merak
