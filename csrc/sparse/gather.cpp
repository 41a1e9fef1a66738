#include "sparse/gather.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "collectives/cut.h"

namespace merak {
namespace {

class Planner {
 public:
  Planner(const Contributions& mine, std::size_t segment_bytes)
      : mine_(mine),
        row_bytes_(mine.row_bytes),
        segment_rows_(std::max<std::size_t>(segment_bytes / mine.row_bytes, 1)),
        base_(mine.ranks() + 1),
        here_(mine.ranks()) {
    std::partial_sum(mine.rows.counts.begin(), mine.rows.counts.end(), base_.begin() + 1);
    all_ = program_.add_scratch(base_.back() * row_bytes_);
  }

  Program run() {
    const std::size_t most = *std::max_element(mine_.rows.counts.begin(), mine_.rows.counts.end());
    for (std::size_t begin = 0; begin < most; begin += segment_rows_) exchange(begin);
    std::vector<std::uint32_t> next(base_.begin(), base_.end() - 1);  // by rank: its next row, among those of all
    for (std::size_t begin = 0; begin < mine_.rows.rows(); begin += segment_rows_) add_up(begin, next);
    return std::move(program_);
  }

 private:
  // Everyone's rows from `begin` on, one segment of them.
  void exchange(std::size_t begin) {
    const std::size_t own = segment_at(mine_.self(), begin);
    if (own > 0) here_[mine_.self()].push_back(pack(begin, own));
    for (int distance = 1; distance < mine_.rows.size; ++distance) {
      const int to = wrap(mine_.rank + distance, mine_.rows.size), from = wrap(mine_.rank - distance, mine_.rows.size);
      if (own > 0) program_.send(to, place(mine_.self(), begin), own * row_bytes_, {here_[mine_.self()].back()});
      if (const std::size_t rows = segment_at(static_cast<std::uint32_t>(from), begin))
        here_[from].push_back(
            program_.receive(from, place(static_cast<std::uint32_t>(from), begin), rows * row_bytes_));
    }
  }

  std::uint32_t pack(std::size_t begin, std::size_t rows) {
    RowSums sums(row_bytes_);
    for (std::uint32_t i = 0; i < rows; ++i) {
      for (std::uint32_t row : mine_.own.at(static_cast<std::uint32_t>(begin) + i)) sums.add(row);
      sums.end_row(i);
    }
    return program_.sum_rows(place(mine_.self(), begin), {kInput, 0}, std::move(sums), {}, false);
  }

  // The sums of the union's rows from `begin` on, once what they need is here.
  void add_up(std::size_t begin, std::vector<std::uint32_t>& next) {
    RowSums sums(row_bytes_);
    const std::size_t end = std::min(begin + segment_rows_, mine_.rows.rows());
    for (std::size_t u = begin; u < end; ++u) {
      mine_.begin_sum(sums, static_cast<std::uint32_t>(u));
      for (std::uint32_t rank : mine_.rows.of(u)) sums.add(next[rank]++);
      sums.end_row(mine_.output_row(static_cast<std::uint32_t>(u)));
    }
    std::vector<std::uint32_t> after;
    for (std::uint32_t rank = 0; rank < mine_.ranks(); ++rank) {
      const std::size_t taken = next[rank] - base_[rank];
      const std::size_t segments = (taken + segment_rows_ - 1) / segment_rows_;
      // Segments of a peer may arrive in any order.
      after.insert(after.end(), here_[rank].begin(), here_[rank].begin() + static_cast<std::ptrdiff_t>(segments));
    }
    program_.sum_rows({kOutput, 0}, {all_, 0}, std::move(sums), std::move(after), true);
  }

  std::size_t segment_at(std::uint32_t rank, std::size_t begin) const {
    const std::size_t rows = mine_.rows.counts[rank];
    return begin < rows ? std::min(segment_rows_, rows - begin) : 0;
  }

  Place place(std::uint32_t rank, std::size_t row) const { return {all_, (base_[rank] + row) * row_bytes_}; }

  const Contributions& mine_;
  const std::size_t row_bytes_, segment_rows_;
  std::vector<std::uint32_t> base_;               // by rank: where its rows begin, among those of all
  std::vector<std::vector<std::uint32_t>> here_;  // by rank: the steps after which its segments are here
  Program program_;
  int all_ = 0;  // scratch: the rows of all ranks
};

}  // namespace

Program gather_all_reduce(const Contributions& contributions, std::size_t segment_bytes) {
  return Planner(contributions, segment_bytes).run();
}

}  // namespace merak
