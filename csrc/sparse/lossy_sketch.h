#pragma once
// An all-reduce by a sketch of fewer cells than rows (sketch_layout.h): every rank adds its rows to the cells, a dense
// all-reduce adds up the cells, and every rank reads the rows from them.
//
// It needs a sum of arrays of a size that is known beforehand, and nothing else of the fabric.
//
// Bytes on the wire and time: those of the dense all-reduce of the cells.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "collectives/choose.h"
#include "sparse/own_rows.h"
#include "sparse/sketch_layout.h"
#include "sparse/union_rows.h"
#include "transport/operation.h"

namespace merak {

class LossySketch {
 public:
  struct Rows {  // what one rank has of the table
    const OwnRows& own;
    const UnionRows& all;           // that any rank announced; this one may have more
    std::vector<std::byte> summed;  // its rows, ascending, those that its input holds several times added up
    std::size_t row_bytes;
  };
  struct Ways {
    DType dtype;  // fp32 or fp64
    int rank;
    const Topology& topology;
    const Reducer& reducer;
  };

  LossySketch(Rows rows, SketchLayout layout, const Ways& ways);

  // Adds up the cells. Used once.
  Act all_reduce(const Signature& signature);

  // Which rows of the table there are estimates of, ascending; and the estimates: one behind the other, or each in its
  // row of a whole table.
  const std::vector<std::uint32_t>& estimated() const { return estimated_; }
  void put_estimates(std::byte* to, bool into_table) const;

  // Which rows of the table this rank keeps, since they have no cell, and their values, laid out likewise.
  const std::vector<std::uint32_t>& kept() const { return kept_; }
  void put_kept(std::byte* to, bool into_table) const;

 private:
  Rows rows_;
  const SketchLayout layout_;
  const Ways ways_;
  std::vector<std::uint32_t> placed_, estimated_, kept_;  // rows of the union; rows of the table
  std::vector<std::byte> cells_;
};

}  // namespace merak
