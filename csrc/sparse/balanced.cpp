#include "sparse/balanced.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "collectives/cut.h"
#include "sparse/chunks.h"
#include "sparse/window.h"

namespace merak {
namespace {

using Rows = std::vector<std::uint32_t>;  // of the union
using Steps = std::vector<std::uint32_t>;

class Planner {
 public:
  Planner(const Contributions& mine, const Deal& deal, std::size_t chunk_bytes)
      : mine_(mine),
        row_bytes_(mine.row_bytes),
        chunks_(chunks_of(mine.rows, deal, std::max<std::size_t>(chunk_bytes / mine.row_bytes, 1))),
        position_(mine.positions()) {
    const auto& own = chunks_[mine.self()];
    for (std::uint32_t owner = 0; owner < mine.ranks(); ++owner) {
      const auto& theirs = chunks_[owner];
      const std::size_t packed = most(theirs, [&](const Chunk& c) { return contributed(mine_.self(), c).size(); });
      packed_.emplace_back(program_, packed, owner == mine.self() ? 0 : theirs.size());
      sums_of_.emplace_back(program_, most(theirs, [](const Chunk& c) { return c.rows.size(); }), theirs.size());
    }
    contributions_.emplace_back(program_, most(own, [&](const Chunk& c) { return contributions(c); }), own.size());
  }

  Program run() {
    std::size_t longest = 0;
    for (const auto& of_owner : chunks_) longest = std::max(longest, of_owner.size());
    for (std::size_t i = 0; i < longest; ++i) plan_chunks(i);
    return std::move(program_);
  }

 private:
  // The i-th chunk of every owner. What ranks send each other is numbered: contributions to chunk i come before the
  // sums of chunk i, at both ends.
  void plan_chunks(std::size_t i) {
    for (int distance = 1; distance < mine_.rows.size; ++distance)
      if (i < chunks_[to(distance)].size()) contribute(to(distance), i);
    if (i < chunks_[mine_.self()].size()) own(i);
    for (int distance = 1; distance < mine_.rows.size; ++distance)
      if (i < chunks_[to(-distance)].size()) take(to(-distance), i);
  }

  void contribute(std::uint32_t owner, std::size_t i) {
    const Rows rows = contributed(mine_.self(), chunks_[owner][i]);
    Window& window = packed_[owner];
    if (rows.empty()) return window.end_use(i, window.free_after(i));
    const std::uint32_t ready = pack(rows, window.place(i), window.free_after(i));
    window.end_use(i, {program_.send(static_cast<int>(owner), window.place(i), rows.size() * row_bytes_, {ready})});
  }

  void own(std::size_t i) {
    const Chunk& chunk = chunks_[mine_.self()][i];
    Window& window = sums_of_[mine_.self()];
    const std::uint32_t done = chunk.kind == Chunk::Kind::kHome
                                   ? sum_input(chunk.rows, window.place(i), window.free_after(i))
                                   : sum(i, window.place(i), window.free_after(i));
    Steps used = {put(chunk.rows, window.place(i), done)};
    for (int distance = 1; distance < mine_.rows.size; ++distance)
      if (!works_out_itself(to(distance), chunk))
        used.push_back(
            program_.send(static_cast<int>(to(distance)), window.place(i), chunk.rows.size() * row_bytes_, {done}));
    window.end_use(i, std::move(used));
  }

  // Adds up the contributions to this rank's i-th chunk. They lie one behind the other, those of each rank together.
  std::uint32_t sum(std::size_t i, Place at, Steps after) {
    const Chunk& chunk = chunks_[mine_.self()][i];
    Window& window = contributions_.front();
    const Place all = window.place(i);
    std::vector<std::uint32_t> next(mine_.ranks());  // by rank: where its next row stands, counted from `all`
    for (std::uint32_t rank = 0, begin = 0; rank < mine_.ranks(); ++rank) {
      const Rows rows = contributed(rank, chunk);
      const Place part = {all.buffer, all.offset + begin * row_bytes_};
      next[rank] = begin;
      begin += static_cast<std::uint32_t>(rows.size());
      if (rows.empty()) continue;
      after.push_back(rank == mine_.self() ? pack(rows, part, window.free_after(i))
                                           : program_.receive(static_cast<int>(rank), part, rows.size() * row_bytes_,
                                                              window.free_after(i)));
    }
    RowSums sums = mine_.sums([&](RowSums& sums) {
      for (std::uint32_t j = 0; j < chunk.rows.size(); ++j) {
        mine_.begin_sum(sums, chunk.rows[j]);
        for (std::uint32_t rank : mine_.rows.of(chunk.rows[j])) sums.add(next[rank]++);
        sums.end_row(j);
      }
    });
    const std::uint32_t done = program_.sum_rows(at, all, std::move(sums), std::move(after), true);
    window.end_use(i, {done});
    return done;
  }

  void take(std::uint32_t owner, std::size_t i) {
    const Chunk& chunk = chunks_[owner][i];
    Window& window = sums_of_[owner];
    const std::uint32_t done = works_out_itself(mine_.self(), chunk)
                                   ? sum_input(chunk.rows, window.place(i), window.free_after(i))
                                   : program_.receive(static_cast<int>(owner), window.place(i),
                                                      chunk.rows.size() * row_bytes_, window.free_after(i));
    window.end_use(i, {put(chunk.rows, window.place(i), done)});
  }

  // Steps on rows -----------------------------------------------------------------------------------------------------

  // This rank's contributions to these rows, one behind the other.
  std::uint32_t pack(const Rows& rows, Place at, Steps after) {
    RowSums sums = mine_.sums([&](RowSums& sums) {
      for (std::uint32_t j = 0; j < rows.size(); ++j) add_input(sums, rows[j], j);
    });
    return program_.sum_rows(at, {kInput, 0}, std::move(sums), std::move(after), false);
  }

  // The whole sums of rows that this rank alone contributes.
  std::uint32_t sum_input(const Rows& rows, Place at, Steps after) {
    RowSums sums = mine_.sums([&](RowSums& sums) {
      for (std::uint32_t j = 0; j < rows.size(); ++j) {
        mine_.begin_sum(sums, rows[j]);
        add_input(sums, rows[j], j);
      }
    });
    return program_.sum_rows(at, {kInput, 0}, std::move(sums), std::move(after), true);
  }

  void add_input(RowSums& sums, std::uint32_t u, std::uint32_t at) const {
    for (std::uint32_t row : mine_.own.at(position_[u])) sums.add(row);
    sums.end_row(at);
  }

  // Sums that lie one behind the other go to their rows of the output.
  std::uint32_t put(const Rows& rows, Place from, std::uint32_t after) {
    RowSums sums = mine_.sums([&](RowSums& sums) {
      for (std::uint32_t j = 0; j < rows.size(); ++j)
        if (const std::uint32_t row = mine_.output_row(rows[j]); row != Contributions::kNoRow) sums.copy_row(row, j);
    });
    return program_.sum_rows({kOutput, 0}, from, std::move(sums), {after}, false);
  }

  // Who and how many --------------------------------------------------------------------------------------------------

  // The rank so many places after this one; negative: before.
  std::uint32_t to(int distance) const {
    return static_cast<std::uint32_t>(wrap(mine_.rank + distance, mine_.rows.size));
  }

  Rows contributed(std::uint32_t rank, const Chunk& chunk) const {
    Rows rows;
    for (std::uint32_t u : chunk.rows)
      if (mine_.contributes(rank, u)) rows.push_back(u);
    return rows;
  }

  // How many rows all ranks together contribute to a chunk.
  std::size_t contributions(const Chunk& chunk) const {
    std::size_t rows = 0;
    for (std::uint32_t u : chunk.rows) rows += mine_.rows.of(u).size();
    return rows;
  }

  static bool works_out_itself(std::uint32_t rank, const Chunk& chunk) {
    return chunk.kind == Chunk::Kind::kLent && chunk.contributor == rank;
  }

  // The most bytes that a chunk has, by a count of rows.
  template <class Count>
  std::size_t most(const std::vector<Chunk>& chunks, Count count) const {
    std::size_t rows = 0;
    for (const Chunk& chunk : chunks) rows = std::max(rows, count(chunk));
    return rows * row_bytes_;
  }

  const Contributions& mine_;
  const std::size_t row_bytes_;
  const std::vector<std::vector<Chunk>> chunks_;  // by owner
  const std::vector<std::uint32_t> position_;     // by row of the union: which of this rank's own rows it is
  Program program_;
  std::vector<Window> packed_, sums_of_;  // by owner: what this rank contributes to its chunks, and their sums
  std::vector<Window> contributions_;     // one: what all contribute to this rank's chunks
};

}  // namespace

Program balanced_all_reduce(const Contributions& contributions, const Deal& deal, std::size_t chunk_bytes) {
  return Planner(contributions, deal, chunk_bytes).run();
}

}  // namespace merak
