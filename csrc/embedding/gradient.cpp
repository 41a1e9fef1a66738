#include "embedding/gradient.h"

#include <algorithm>
#include <utility>

#include "embedding/row_exchange.h"

namespace merak {
namespace {

constexpr std::size_t kBlockBytes = 128 * 1024;  // added up at a time: little is left to do when the last rows come

struct Arrival {  // of rows [begin, end) from a rank
  std::uint32_t begin, end, step;
};
using Arrivals = std::vector<std::vector<Arrival>>;  // by rank, in order

// Adds up what has come, block by block of the union's rows of which this rank has slices: each as soon as all ranks'
// rows of it are there.
class Sums {
 public:
  Sums(const Batch& batch, const std::vector<Place>& come, const Arrivals& arrivals)
      : batch_(batch),
        held_(batch.held()),
        width_(batch.width(batch.rank)),
        place_(come.front()),
        arrivals_(arrivals),
        next_(come.size()),
        left_(come.size()) {
    for (const Place& place : come)
      first_.push_back(static_cast<std::uint32_t>((place.offset - place_.offset) / width_));
  }

  void append_to(Program& program) {
    const std::size_t block = std::max<std::size_t>(kBlockBytes / width_, 1);
    for (std::size_t begin = held_.begin; begin < held_.end; begin += block)
      append_block(program, begin, std::min(held_.end, begin + block));
  }

 private:
  void append_block(Program& program, std::size_t begin, std::size_t end) {
    RowSums sums(width_);
    for (std::size_t u = begin; u < end; ++u) {
      for (std::uint32_t rank : batch_.rows.of(u)) sums.add(first_[rank] + next_[rank]++);
      sums.end_row(static_cast<std::uint32_t>(u - begin));
    }
    program.sum_rows({kOutput, (begin - held_.begin) * width_}, place_, std::move(sums), steps_so_far(), true);
  }

  // Those that the rows up to next_ came by, since the last time.
  std::vector<std::uint32_t> steps_so_far() {
    std::vector<std::uint32_t> steps;
    for (std::size_t rank = 0; rank < arrivals_.size(); ++rank) {
      const std::vector<Arrival>& of_rank = arrivals_[rank];
      while (left_[rank] < of_rank.size() && of_rank[left_[rank]].begin < next_[rank]) {
        steps.push_back(of_rank[left_[rank]].step);
        if (of_rank[left_[rank]].end > next_[rank]) break;  // the next block needs it, too
        ++left_[rank];
      }
    }
    return steps;
  }

  const Batch& batch_;
  const Interval held_;
  const std::size_t width_;
  const Place place_;
  const Arrivals& arrivals_;
  std::vector<std::uint32_t> first_;  // by rank: where its rows begin, counted from `place_`
  std::vector<std::uint32_t> next_;   // by rank: the first of its rows that is not added up
  std::vector<std::size_t> left_;     // by rank: the first of its arrivals that is not used up
};

}  // namespace

Program gradient(const Batch& batch) {
  RowExchange exchange{batch.rank, {}, {}, {}, {}, true};
  for (int peer = 0; peer < batch.ranks(); ++peer) {
    exchange.send.push_back({batch.held(peer, batch.rank).count(), batch.width(peer)});
    exchange.receive.push_back({batch.held(batch.rank, peer).count(), batch.width(batch.rank)});
  }
  exchange.make = [&](Program& program, const Segment& segment, std::vector<std::uint32_t> after) {
    RowSums rows(batch.width(segment.peer));
    rows.from_pitch = batch.row_bytes();
    const auto sent = static_cast<std::uint32_t>(batch.held(segment.peer, batch.rank).begin);
    for (std::uint32_t i = segment.begin; i < segment.end; ++i) {
      for (std::uint32_t token : batch.own.at(sent + i)) rows.add(token);
      rows.end_row(i - segment.begin);
    }
    const Place columns = {kInput, batch.split.columns(segment.peer).begin * batch.element_bytes};
    return program.sum_rows(segment.place, columns, std::move(rows), std::move(after), false);
  };
  Arrivals arrivals(batch.read.size());
  exchange.use = [&](Program&, const Segment& segment, std::uint32_t come) {
    arrivals[static_cast<std::size_t>(segment.peer)].push_back({segment.begin, segment.end, come});
    return come;
  };
  Program program;
  const std::vector<Place> come = exchange_rows(program, exchange);
  if (batch.width(batch.rank) > 0) Sums(batch, come, arrivals).append_to(program);
  return program;
}

}  // namespace merak
