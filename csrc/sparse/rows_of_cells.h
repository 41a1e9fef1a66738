#pragma once
// By cell of a sketch, the rows that are added to it.

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace merak {

class RowsOfCells {
 public:
  // `for_each_pair(visit)` calls visit(cell, row) for each row in each of its cells; every time in the same order, in
  // which the rows of a cell then stand.
  template <class ForEachPair>
  RowsOfCells(std::size_t cells, ForEachPair for_each_pair) : first_(cells + 2) {
    for_each_pair([&](std::uint32_t cell, std::uint32_t) { ++first_[cell + 2]; });
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    rows_.resize(first_.back());
    // first_[c + 1] moves from where cell c begins to where it ends.
    for_each_pair([&](std::uint32_t cell, std::uint32_t row) { rows_[first_[cell + 1]++] = row; });
  }

  std::span<const std::uint32_t> operator[](std::size_t cell) const {
    return {rows_.data() + first_[cell], rows_.data() + first_[cell + 1]};
  }

 private:
  std::vector<std::uint32_t> first_, rows_;
};

}  // namespace merak
