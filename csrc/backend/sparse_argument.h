#pragma once
// A tensor as the sparse all-reduce takes it: a table of rows, of which this rank has some.
//
//   sparse COO       a row for each index; of several sparse dimensions, one for each point of their grid
//   dense, 2-D up    a row for each index of dimension 0, present unless all its bits are zero
//   dense, 1-D       blocks of 64 elements as rows

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "backend/tensor_checks.h"
#include "sparse/all_reduce.h"

namespace merak {

class SparseArgument {
 public:
  // Raises ValueError for other layouts and devices.
  SparseArgument(const TensorChecks& check, const at::Tensor& tensor);

  // What this rank has. With an index out of range: nothing, and problem() says so.
  SparseTable table();
  const std::string& problem() const { return problem_; }
  std::size_t row_bytes() const { return shape_.row_bytes; }
  // What the table's values lie in.
  const at::Tensor& memory() const { return memory_; }

  // The result, laid out as the argument is, and its rows' memory; called when the union's rows are known. A COO result
  // is coalesced.
  struct Result {
    at::Tensor tensor;
    void* rows;
  };
  Result make_result(const std::vector<std::uint32_t>& ids) const;
  // The same into a COO tensor.
  void* put_result(const std::vector<std::uint32_t>& ids, at::Tensor& into) const;

 private:
  bool is_coo() const { return tensor_.layout() == at::kSparse; }
  SparseTable coo_table();
  SparseTable dense_table();
  Bitmap present_rows(const at::Tensor& rows) const;
  std::vector<std::int64_t> linear_ids(const at::Tensor& indices) const;
  at::Tensor indices_of(const std::vector<std::uint32_t>& ids) const;
  at::Tensor values_for(std::size_t rows) const;

  at::Tensor tensor_;
  Shape shape_;
  std::string problem_;
  at::Tensor memory_;  // that table() refers to
};

}  // namespace merak
