#include "sparse/gather.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "collectives/cut.h"
#include "sparse/window.h"

namespace merak {
namespace {

struct Part {
  std::uint32_t begin = 0, end = 0;   // rows of the union
  std::vector<std::uint32_t> counts;  // by rank: how many of them it contributes
  std::uint32_t contributions = 0;    // of all ranks
};

std::vector<Part> parts_of(const UnionRows& rows, std::size_t most_contributions) {
  std::vector<Part> parts;
  for (std::uint32_t u = 0; u < rows.rows(); ++u) {
    const auto contributors = rows.of(u);
    if (parts.empty() || parts.back().contributions + contributors.size() > most_contributions)
      parts.push_back({u, u, std::vector<std::uint32_t>(static_cast<std::size_t>(rows.size)), 0});
    Part& part = parts.back();
    part.end = u + 1, part.contributions += static_cast<std::uint32_t>(contributors.size());
    for (std::uint32_t rank : contributors) ++part.counts[rank];
  }
  return parts;
}

class Planner {
 public:
  Planner(const Contributions& mine, std::size_t part_bytes)
      : mine_(mine),
        row_bytes_(mine.row_bytes),
        parts_(parts_of(mine.rows, std::max<std::size_t>(part_bytes / mine.row_bytes, 1))),
        window_(program_, largest() * row_bytes_, parts_.size()) {}

  Program run() {
    for (std::size_t i = 0; i < parts_.size(); ++i) exchange(i);
    return std::move(program_);
  }

 private:
  std::size_t largest() const {
    std::size_t rows = 0;
    for (const Part& part : parts_) rows = std::max<std::size_t>(rows, part.contributions);
    return rows;
  }

  // What the ranks contribute to a part lies one behind the other, in the order of ranks.
  void exchange(std::size_t i) {
    const Part& part = parts_[i];
    std::vector<std::uint32_t> begin(mine_.ranks() + 1);
    for (std::uint32_t rank = 0; rank < mine_.ranks(); ++rank) begin[rank + 1] = begin[rank] + part.counts[rank];
    const auto place = [&](int rank) {
      return Place{window_.place(i).buffer,
                   window_.place(i).offset + begin[static_cast<std::size_t>(rank)] * row_bytes_};
    };
    std::vector<std::uint32_t> here, sent;
    const std::size_t own_bytes = part.counts[mine_.self()] * row_bytes_;
    if (own_bytes > 0) here.push_back(pack(part, place(mine_.rank), window_.free_after(i)));
    for (int distance = 1; distance < mine_.rows.size; ++distance) {
      const int to = wrap(mine_.rank + distance, mine_.rows.size), from = wrap(mine_.rank - distance, mine_.rows.size);
      if (own_bytes > 0) sent.push_back(program_.send(to, place(mine_.rank), own_bytes, {here.front()}));
      if (const std::size_t bytes = part.counts[static_cast<std::size_t>(from)] * row_bytes_)
        here.push_back(program_.receive(from, place(from), bytes, window_.free_after(i)));
    }
    sent.push_back(add_up(part, i, begin, here));
    window_.end_use(i, std::move(sent));
  }

  std::uint32_t pack(const Part& part, Place at, std::vector<std::uint32_t> after) {
    RowSums sums = mine_.sums([&](RowSums& sums) {
      for (std::uint32_t j = 0; j < part.counts[mine_.self()]; ++j) {
        for (std::uint32_t row : mine_.own.at(own_rows_++)) sums.add(row);
        sums.end_row(j);
      }
    });
    return program_.sum_rows(at, {kInput, 0}, std::move(sums), std::move(after), false);
  }

  std::uint32_t add_up(const Part& part, std::size_t i, std::vector<std::uint32_t> next,
                       std::vector<std::uint32_t> after) {
    RowSums sums = mine_.sums([&](RowSums& sums) {
      for (std::uint32_t u = part.begin; u < part.end; ++u) {
        mine_.begin_sum(sums, u);
        for (std::uint32_t rank : mine_.rows.of(u)) sums.add(next[rank]++);
        sums.end_row(mine_.output_row(u));
      }
    });
    return program_.sum_rows({kOutput, 0}, window_.place(i), std::move(sums), std::move(after), true);
  }

  const Contributions& mine_;
  const std::size_t row_bytes_;
  const std::vector<Part> parts_;
  Program program_;
  Window window_;
  std::uint32_t own_rows_ = 0;  // that were packed so far
};

}  // namespace

Program gather_all_reduce(const Contributions& contributions, std::size_t part_bytes) {
  return Planner(contributions, part_bytes).run();
}

}  // namespace merak
