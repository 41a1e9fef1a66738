#pragma once
// How a table is split over ranks: every rank holds some columns of all rows, or all columns of some rows. What a rank
// holds of one row is a *slice*: a row that is read comes as a slice from each rank, or as one from a single rank.
//
// By columns, every row is read from all ranks alike, however often it is read. By rows, slices are longer, and fewer,
// as many times as there are ranks, so that narrow tables make less work; but ranks with frequent rows do most of it.
//
// Columns, or rows, are cut as torch.chunk cuts: every rank has as many, but for the last ones, which may have fewer,
// or none. So a part is what DTensor's Shard(1), or Shard(0), says it is.

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace merak {

struct Interval {
  std::size_t begin = 0, end = 0;

  std::size_t count() const { return end - begin; }
  bool operator==(const Interval&) const = default;
};

enum class SplitBy : std::uint8_t { kColumns, kRows };

struct Split {
  SplitBy by = SplitBy::kColumns;
  std::size_t table_rows = 0, table_columns = 0;
  int ranks = 1;
  std::int32_t table = -1;  // which of its group's tables, all ranks counting alike; -1: none of them

  // That a rank holds.
  Interval rows(int rank) const { return by == SplitBy::kRows ? chunk(table_rows, rank) : Interval{0, table_rows}; }
  Interval columns(int rank) const {
    return by == SplitBy::kColumns ? chunk(table_columns, rank) : Interval{0, table_columns};
  }

 private:
  Interval chunk(std::size_t all, int rank) const {
    const std::size_t count = static_cast<std::size_t>(ranks), most = (all + count - 1) / count;
    const std::size_t begin = std::min(static_cast<std::size_t>(rank) * most, all);
    return {begin, std::min(begin + most, all)};
  }
};

}  // namespace merak
