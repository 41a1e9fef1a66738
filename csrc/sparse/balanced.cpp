#include "sparse/balanced.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "collectives/cut.h"
#include "sparse/chunks.h"

namespace merak {
namespace {

class Planner {
 public:
  Planner(const Contributions& mine, const Deal& deal, std::size_t chunk_bytes)
      : mine_(mine),
        rank_(mine.self()),
        row_bytes_(mine.row_bytes),
        chunks_(chunks_of(mine.rows, deal, std::max<std::size_t>(chunk_bytes / mine.row_bytes, 1))),
        position_(mine.positions()) {
    packed_ = program_.add_scratch(0), sums_ = program_.add_scratch(0), arrived_ = program_.add_scratch(0);
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
      if (const Chunk* chunk = chunk_at(to(distance), i)) contribute(to(distance), *chunk);
    if (const Chunk* chunk = chunk_at(rank_, i)) own(*chunk);
    for (int distance = 1; distance < mine_.rows.size; ++distance)
      if (const Chunk* chunk = chunk_at(from(distance), i)) take(from(distance), *chunk);
  }

  void contribute(std::uint32_t owner, const Chunk& chunk) {
    const auto rows = contributed(rank_, chunk);
    if (rows.empty()) return;
    const Place at = reserve(packed_, rows.size());
    program_.send(static_cast<int>(owner), at, rows.size() * row_bytes_, {pack(rows, at)});
  }

  void own(const Chunk& chunk) {
    const Place sums = reserve(sums_, chunk.rows.size());
    const std::uint32_t done = chunk.kind == Chunk::Kind::kHome ? sum_input(chunk.rows, sums) : sum(chunk, sums);
    for (int distance = 1; distance < mine_.rows.size; ++distance)
      if (!works_out_itself(to(distance), chunk))
        program_.send(static_cast<int>(to(distance)), sums, chunk.rows.size() * row_bytes_, {done});
    put(chunk.rows, sums, done);
  }

  // Adds up the contributions to a chunk. They lie one behind the other, those of each rank together.
  std::uint32_t sum(const Chunk& chunk, Place sums) {
    std::vector<std::vector<std::uint32_t>> of_rank;
    std::size_t total = 0;
    for (std::uint32_t rank = 0; rank < mine_.ranks(); ++rank) {
      of_rank.push_back(contributed(rank, chunk));
      total += of_rank.back().size();
    }
    const Place all = reserve(arrived_, total);
    std::vector<std::uint32_t> next(mine_.ranks()), after;  // by rank: where its next row stands, counted from `all`
    for (std::uint32_t rank = 0, begin = 0; rank < mine_.ranks(); ++rank) {
      next[rank] = begin;
      const Place at = {all.buffer, all.offset + begin * row_bytes_};
      const auto count = static_cast<std::uint32_t>(of_rank[rank].size());
      begin += count;
      if (count == 0) continue;
      after.push_back(rank == rank_ ? pack(of_rank[rank], at)
                                    : program_.receive(static_cast<int>(rank), at, count * row_bytes_));
    }
    RowSums row_sums(row_bytes_);
    for (std::uint32_t i = 0; i < chunk.rows.size(); ++i) {
      const std::uint32_t u = chunk.rows[i];
      mine_.begin_sum(row_sums, u);
      for (std::uint32_t rank : mine_.rows.of(u)) row_sums.add(next[rank]++);
      row_sums.end_row(i);
    }
    return program_.sum_rows(sums, all, std::move(row_sums), std::move(after), true);
  }

  void take(std::uint32_t owner, const Chunk& chunk) {
    if (works_out_itself(rank_, chunk)) {
      RowSums row_sums(row_bytes_);
      for (std::uint32_t u : chunk.rows) add_input(row_sums, u, mine_.output_row(u), true);
      program_.sum_rows({kOutput, 0}, {kInput, 0}, std::move(row_sums), {}, true);
      return;
    }
    const Place at = reserve(arrived_, chunk.rows.size());
    put(chunk.rows, at, program_.receive(static_cast<int>(owner), at, chunk.rows.size() * row_bytes_));
  }

  // Steps on rows ----------------------------------------------------------------------------------------------------

  // This rank's contributions to these rows, one behind the other.
  std::uint32_t pack(const std::vector<std::uint32_t>& rows, Place at) {
    RowSums row_sums(row_bytes_);
    for (std::uint32_t i = 0; i < rows.size(); ++i) add_input(row_sums, rows[i], i, false);
    return program_.sum_rows(at, {kInput, 0}, std::move(row_sums), {}, false);
  }

  // The whole sums of rows that this rank alone contributes.
  std::uint32_t sum_input(const std::vector<std::uint32_t>& rows, Place at) {
    RowSums row_sums(row_bytes_);
    for (std::uint32_t i = 0; i < rows.size(); ++i) add_input(row_sums, rows[i], i, true);
    return program_.sum_rows(at, {kInput, 0}, std::move(row_sums), {}, true);
  }

  // Sums that lie one behind the other go to their rows of the output.
  void put(const std::vector<std::uint32_t>& rows, Place from, std::uint32_t after) {
    RowSums row_sums(row_bytes_);
    for (std::uint32_t i = 0; i < rows.size(); ++i) row_sums.copy_row(mine_.output_row(rows[i]), i);
    program_.sum_rows({kOutput, 0}, from, std::move(row_sums), {after}, false);
  }

  void add_input(RowSums& row_sums, std::uint32_t u, std::uint32_t at, bool whole) const {
    if (whole) mine_.begin_sum(row_sums, u);
    for (std::uint32_t row : mine_.own.at(position_[u])) row_sums.add(row);
    row_sums.end_row(at);
  }

  // Who and where ----------------------------------------------------------------------------------------------------

  std::uint32_t to(int distance) const {
    return static_cast<std::uint32_t>(wrap(mine_.rank + distance, mine_.rows.size));
  }
  std::uint32_t from(int distance) const { return to(-distance); }

  const Chunk* chunk_at(std::uint32_t owner, std::size_t i) const {
    return i < chunks_[owner].size() ? &chunks_[owner][i] : nullptr;
  }

  std::vector<std::uint32_t> contributed(std::uint32_t rank, const Chunk& chunk) const {
    std::vector<std::uint32_t> rows;
    for (std::uint32_t u : chunk.rows)
      if (mine_.contributes(rank, u)) rows.push_back(u);
    return rows;
  }

  static bool works_out_itself(std::uint32_t rank, const Chunk& chunk) {
    return chunk.kind == Chunk::Kind::kLent && chunk.contributor == rank;
  }

  // The next rows of a scratch buffer.
  Place reserve(int buffer, std::size_t rows) {
    std::size_t& bytes = program_.scratch[static_cast<std::size_t>(buffer - kScratch)];
    const Place place = {buffer, bytes};
    bytes += rows * row_bytes_;
    return place;
  }

  const Contributions& mine_;
  const std::uint32_t rank_;
  const std::size_t row_bytes_;
  const std::vector<std::vector<Chunk>> chunks_;
  std::vector<std::uint32_t> position_;  // by row of the union that this rank contributes: which of its own it is
  Program program_;
  int packed_ = 0, sums_ = 0, arrived_ = 0;  // scratch
};

}  // namespace

Program balanced_all_reduce(const Contributions& contributions, const Deal& deal, std::size_t chunk_bytes) {
  return Planner(contributions, deal, chunk_bytes).run();
}

}  // namespace merak
