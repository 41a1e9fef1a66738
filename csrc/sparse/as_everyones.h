#pragma once
// Rows as if every rank contributed all of them, those that it has none of as zeros.
//
// With these balanced_all_reduce is a dense all-reduce whose owners add up in the order of ranks, with partial sums as
// wide as fp32: for 16-bit types, of which a ring would round the partial sums at each of its steps. It sends what a
// ring sends, 2 (n - 1) / n of the rows.

#include <cstdint>
#include <vector>

#include "sparse/contributions.h"

namespace merak {

class AsEveryones {
 public:
  // `ids`: rows of the table, ascending, those of the union among them. The output holds what that of `mine` does.
  AsEveryones(const Contributions& mine, std::vector<std::uint32_t> ids);
  AsEveryones(const AsEveryones&) = delete;

  const Contributions& contributions() const { return contributions_; }

 private:
  UnionRows rows_;
  OwnRows own_;
  std::vector<std::uint32_t> output_rows_;
  Contributions contributions_;
};

}  // namespace merak
