#pragma once
// An all-reduce by a sketch of all rows, without loss: rows become integers (fixed_point.h), every rank adds its rows
// up in a sketch (peeling.h), a dense all-reduce adds up the sketches, and every rank peels the sums from the result.
// All of it but the conversions is one program.
//
// For fabrics that can only add: it needs a sum of arrays of known size, and nothing else. It sends 1.4 times what
// packed rows take, and twice that where values need 64 bits.
//
// Bytes on the wire and time: those of the dense all-reduce of kCellsARow U cells.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "collectives/choose.h"
#include "sparse/fixed_point.h"
#include "sparse/own_rows.h"
#include "sparse/peeling.h"
#include "sparse/union_rows.h"
#include "transport/operation.h"

namespace merak {

class ExactSketch {
 public:
  struct Table {  // what one rank has of it
    const OwnRows& own;
    const UnionRows& rows;
    std::vector<std::byte> summed;  // its rows, ascending, those that its input holds several times added up
    std::size_t row_elements;
    ExponentRange exponents;  // of all ranks
  };
  struct Ways {
    DType dtype;
    int rank;
    const Topology& topology;
    int divisor;  // of an average; else 1
  };

  // Null where values need more than 64 bits, or no seed places the rows so that they can be peeled. All ranks find
  // the same.
  static std::unique_ptr<ExactSketch> make(std::vector<Table> tables, const Ways& ways);

  // Adds up the sketches, and peels them. Used once.
  Act all_reduce(const Signature& signature);

  // After it. The certificate: that nothing else was in the sketches.
  bool certificate() const;
  // Row u of the union of a table, to `to`.
  void recover(std::size_t table, std::uint32_t u, void* to) const;

  void spoil() { sketches_.front().at(plans_.front().other_cells().front() * row_bytes(0)) ^= std::byte{1}; }

 private:
  ExactSketch(std::vector<Table> tables, const Ways& ways, int bits, std::vector<PeelingPlan> plans);
  void append_table(Program& whole, std::size_t table, Place input, Place output) const;
  std::size_t integer_bytes() const { return static_cast<std::size_t>(bits_) / 8; }
  std::size_t row_bytes(std::size_t table) const { return tables_[table].row_elements * integer_bytes(); }

  std::vector<Table> tables_;
  const Ways ways_;
  const int bits_;
  std::vector<PeelingPlan> plans_;
  std::vector<std::vector<std::byte>> integers_, sketches_;  // by table
};

}  // namespace merak
