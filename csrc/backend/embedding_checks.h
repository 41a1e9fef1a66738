#pragma once
// What tables that are split over the ranks may be made of.

#include <string>

#include "backend/tensor_checks.h"
#include "embedding/batch.h"

namespace merak {

inline void check_table_tensor(const TensorChecks& check, const at::Tensor& tensor) {
  const at::ScalarType dtype = tensor.scalar_type();
  check.require(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
                "tables of float32, float64, float16 and bfloat16 can be split; this one has another dtype.");
  check.require(tensor.device().is_cpu(), "a tensor on CPU is needed here.");
  check.require(tensor.layout() == at::kStrided, "a dense tensor is needed here.");
}

// A rank's part of a table.
inline void check_shard(const TensorChecks& check, const at::Tensor& shard, const Split& split, int rank) {
  check_table_tensor(check, shard);
  const auto rows = static_cast<std::int64_t>(split.rows(rank).count());
  const auto columns = static_cast<std::int64_t>(split.columns(rank).count());
  check.require(shard.dim() == 2 && shard.size(0) == rows && shard.size(1) == columns && shard.is_contiguous(),
                "this rank's part of a table of " + std::to_string(split.table_rows) + " x " +
                    std::to_string(split.table_columns) + " has to be contiguous, " + std::to_string(rows) + " x " +
                    std::to_string(columns) + ".");
}

// The rows of a batch's tokens, of this rank, which `shard` is a part of.
inline void check_rows(const TensorChecks& check, const Batch& batch, const at::Tensor& shard, const at::Tensor& rows) {
  check_shard(check, shard, batch.split, batch.rank);
  check.require(shard.element_size() == static_cast<std::int64_t>(batch.element_bytes),
                "the table is not the one that was announced.");
  check.writable("the rows", rows);
  check.require(rows.scalar_type() == shard.scalar_type() && rows.nbytes() == batch.tokens * batch.row_bytes(),
                "the rows do not fit the tokens that were announced.");
}

// All ranks state it alike, so that parts that differ are found.
inline std::size_t bytes_read(const Batch& batch) { return batch.rows.rows() * batch.row_bytes(); }

}  // namespace merak
