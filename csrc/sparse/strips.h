#pragma once
// Rows that are added up densely: they lie one behind the other on every rank, and a dense all-reduce adds them up.
//
// They are made in *strips* as long as a step may take, and the program knows which steps have worked on each: so one
// strip is reduced while the next is being made.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "collectives/choose.h"
#include "transport/program.h"

namespace merak {

// The collective is that of the costs as they stand in costs.h, and not as measured: so the order of sums is the same
// from run to run.
struct DenseWays {  // how to reduce densely
  const Topology& topology;
  std::size_t element_bytes;
};

class Strips {
 public:
  using Steps = std::vector<std::uint32_t>;

  Strips(Place place, std::size_t rows, std::size_t row_bytes);

  const Place place;
  const std::size_t rows, row_bytes, strip_rows;

  // Makes the rows from the input: fill(sums, i) says what row i is the sum of. Begins with what the dense all-reduce
  // sends first: this rank's share.
  template <class Fill>
  void make(Program& program, int rank, int ranks, Fill fill);

  void all_reduce(Program& program, int rank, const DenseWays& ways);

  // The steps that have worked on rows [begin, end), at least one row, so far.
  Steps steps(std::size_t begin, std::size_t end) const;

 private:
  template <class Visit>
  void for_each_strip(Place at, std::size_t bytes, Visit visit);

  std::vector<Steps> worked_on_;  // by strip
};

template <class Fill>
void Strips::make(Program& program, int rank, int ranks, Fill fill) {
  const std::size_t strips = worked_on_.size(), first = strips * static_cast<std::size_t>(rank) / ranks;
  for (std::size_t turn = 0; turn < strips; ++turn) {
    const std::size_t strip = (first + turn) % strips, begin = strip * strip_rows;
    RowSums sums(row_bytes);
    for (std::size_t i = begin; i < std::min(rows, begin + strip_rows); ++i) fill(sums, i);
    worked_on_[strip] = {program.sum_rows(place, {kInput, 0}, std::move(sums), {}, ranks == 1)};
  }
}

}  // namespace merak
