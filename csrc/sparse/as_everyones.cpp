#include "sparse/as_everyones.h"

#include <cstddef>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace merak {
namespace {

UnionRows everyones(std::vector<std::uint32_t> ids, int ranks) {
  if (ids.size() > UINT32_MAX / static_cast<std::size_t>(ranks))
    throw std::length_error("a table of " + std::to_string(ids.size()) + " rows of 16-bit elements is too long for " +
                            "this method: use 'balanced'");
  UnionRows rows{.size = ranks, .ids = std::move(ids), .first = {0}, .contributors = {}, .counts = {}};
  rows.counts.assign(static_cast<std::size_t>(ranks), static_cast<std::uint32_t>(rows.rows()));
  std::vector<std::uint32_t> all(static_cast<std::size_t>(ranks));
  std::iota(all.begin(), all.end(), 0u);
  for (std::size_t u = 0; u < rows.rows(); ++u) {
    rows.contributors.insert(rows.contributors.end(), all.begin(), all.end());
    rows.first.push_back(static_cast<std::uint32_t>(rows.contributors.size()));
  }
  return rows;
}

}  // namespace

AsEveryones::AsEveryones(const Contributions& mine, std::vector<std::uint32_t> ids)
    : rows_(everyones(std::move(ids), mine.rows.size)),
      own_{mine.own.present, {0}, {}},
      contributions_{
          rows_, own_, mine.rank, mine.row_bytes, mine.from_zeros, mine.into_table, mine.only_messages, &output_rows_} {
  std::uint32_t next = 0, position = 0;  // among the rows of the union; among this rank's own
  for (std::uint32_t id : rows_.ids) {
    const bool in_union = next < mine.rows.rows() && mine.rows.ids[next] == id;
    output_rows_.push_back(in_union ? mine.output_row(next) : Contributions::kNoRow);
    if (in_union && !mine.only_messages && mine.contributes(mine.self(), next))
      for (std::uint32_t row : mine.own.at(position++)) own_.input.push_back(row);
    own_.first.push_back(static_cast<std::uint32_t>(own_.input.size()));
    next += in_union;
  }
}

}  // namespace merak
