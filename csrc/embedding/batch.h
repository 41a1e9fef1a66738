#pragma once
// What the ranks look up in one table at a time: known to all of them once they have exchanged which rows they read
// (sparse/announcing.h). A row that a rank reads several times travels once.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "embedding/split.h"
#include "sparse/own_rows.h"
#include "sparse/union_rows.h"

namespace merak {

struct Batch {
  int rank = 0;
  Split split;
  std::size_t element_bytes = 0;
  std::size_t tokens = 0;                        // of this rank
  OwnRows own;                                   // row p of those that it reads is read by tokens own.at(p)
  std::vector<std::vector<std::uint32_t>> read;  // by rank: the rows of the table that it reads, ascending
  UnionRows rows;                                // that any rank reads

  int ranks() const { return split.ranks; }
  std::size_t width(int holder) const { return split.columns(holder).count() * element_bytes; }  // of its slices
  std::size_t row_bytes() const { return split.table_columns * element_bytes; }

  // Of the rows that `reader` reads those that `holder` has slices of, by their place in read[reader]: what travels
  // between the two.
  Interval held(int holder, int reader) const;
  // Of all rows that are read those that this rank has slices of, by their place in rows.ids.
  Interval held() const;
  // The ids of those, counted from this rank's first row.
  std::vector<std::uint32_t> held_ids() const;
};

// `present`: by rank, the rows that it reads; `own`: those of this rank.
Batch make_batch(int rank, const Split& split, std::size_t element_bytes, OwnRows own,
                 const std::vector<Bitmap>& present);

// Of a batch, some rows: those among `rows`, a bit each of the table, or all but those. The others nobody reads then.
// The lookup of a part fills the tokens that read its rows, and leaves the others alone; so the rows of a batch may be
// looked up, and their gradients sent, in parts.
Batch part_among(const Batch& batch, const Bitmap& rows);
Batch part_beyond(const Batch& batch, const Bitmap& rows);
// All but one row.
Batch without_row(const Batch& batch, std::uint32_t row);

// The rows that any rank reads.
Bitmap rows_read(const Batch& batch);

}  // namespace merak
