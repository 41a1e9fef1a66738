#include "backend/sparse_argument.h"

#include <ATen/SparseTensorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "backend/call.h"
#include "backend/cuda_programs.h"

namespace merak {
namespace {

constexpr std::int64_t kBlock = 64;  // elements of a dense tensor without rows
constexpr std::size_t kMostRows = RowSums::kMostRows;

std::string text_of(at::Layout layout) {
  std::ostringstream text;
  text << layout;
  return text.str();
}

// FNV-1a.
std::uint64_t hash_of(at::IntArrayRef sizes) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (std::int64_t size : sizes) hash = (hash ^ static_cast<std::uint64_t>(size)) * 0x100000001b3ull;
  return hash;
}

std::int64_t product(at::IntArrayRef sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace

SparseArgument::SparseArgument(const TensorChecks& check, const at::Tensor& tensor) : tensor_(tensor.detach()) {
  check.require(tensor.layout() == at::kSparse || tensor.layout() == at::kStrided,
                "a tensor of layout " + text_of(tensor.layout()) +
                    " is not taken here: pass a sparse COO or a dense tensor (.to_sparse_coo(), .to_dense()).");
  check.require(tensor.device().is_cpu() || tensor.device().is_cuda(), "a tensor on CPU or CUDA is needed here.");
  const auto sizes = tensor.sizes();
  const std::int64_t sparse_dim = is_coo() ? tensor.sparse_dim() : std::min<std::int64_t>(tensor.dim(), 1);
  const bool blocks = !is_coo() && tensor.dim() < 2;
  const std::int64_t rows = blocks ? (tensor.numel() + kBlock - 1) / kBlock : product(sizes.slice(0, sparse_dim));
  const std::int64_t elements = blocks ? kBlock : product(sizes.slice(sparse_dim));
  // A tensor whose rows have no elements has nothing to reduce, as one without rows.
  shape_.table_rows = elements > 0 ? static_cast<std::size_t>(rows) : 0;
  shape_.element_bytes = tensor.element_size();
  shape_.sizes = hash_of(sizes);
  shape_.row_bytes = static_cast<std::size_t>(std::max<std::int64_t>(elements, 1)) * shape_.element_bytes;
  check.require(shape_.table_rows <= kMostRows, "the tensor has " + std::to_string(rows) + " rows; more than " +
                                                    std::to_string(kMostRows) +
                                                    " cannot be reduced sparsely. Split it.");
}

SparseTable SparseArgument::table() { return is_coo() ? coo_table() : dense_table(); }

SparseTable SparseArgument::coo_table() {
  const at::Tensor indices = tensor_._indices(), values = contiguous_input(tensor_._values());
  SparseTable table{shape_, own_rows({}, shape_.table_rows), {}, false};
  try {
    if (shape_.table_rows > 0) table.own = own_rows(linear_ids(indices), shape_.table_rows);
  } catch (const std::out_of_range& error) {
    problem_ = error.what();
    return table;
  }
  memory_ = values;
  table.values.append(const_cast<void*>(values.const_data_ptr()), bytes_of(values));
  return table;
}

SparseTable SparseArgument::dense_table() {
  at::Tensor rows = contiguous_input(tensor_);
  const auto bytes = static_cast<std::int64_t>(shape_.table_rows * shape_.row_bytes);
  if (static_cast<std::int64_t>(bytes_of(rows)) < bytes) {  // the last block is filled up with zeros
    at::Tensor padded = at::zeros({bytes / tensor_.element_size()}, tensor_.options());
    padded.narrow(0, 0, tensor_.numel()).copy_(rows.view({-1}));
    rows = padded;
  }
  memory_ = rows;
  const auto* data = static_cast<const std::byte*>(rows.const_data_ptr());
  SparseTable table{shape_, own_rows_of_dense(present_rows(rows)), {}, true};
  table.values.append(const_cast<std::byte*>(data), bytes_of(rows));
  return table;
}

Bitmap SparseArgument::present_rows(const at::Tensor& rows) const {
  if (rows.is_cuda()) return present_rows_on_cuda(rows, shape_);
  return merak::present_rows(static_cast<const std::byte*>(rows.const_data_ptr()), shape_.table_rows, shape_.row_bytes,
                             shape_.element_bytes);
}

// Along several sparse dimensions the last one runs fastest. Throws std::out_of_range.
std::vector<std::int64_t> SparseArgument::linear_ids(const at::Tensor& indices) const {
  const at::Tensor packed = indices.cpu().contiguous();
  const auto* index = packed.const_data_ptr<std::int64_t>();
  const std::int64_t count = packed.size(1);
  std::vector<std::int64_t> ids(static_cast<std::size_t>(count), 0);
  for (std::int64_t d = 0; d < packed.size(0); ++d)
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t one = index[d * count + i];
      if (one < 0 || one >= tensor_.size(d))
        throw std::out_of_range("index " + std::to_string(one) + " of dimension " + std::to_string(d) +
                                ", at position " + std::to_string(i) + ", is outside a tensor whose size there is " +
                                std::to_string(tensor_.size(d)));
      ids[static_cast<std::size_t>(i)] = ids[static_cast<std::size_t>(i)] * tensor_.size(d) + one;
    }
  return ids;
}

at::Tensor SparseArgument::indices_of(const std::vector<std::uint32_t>& ids) const {
  const std::int64_t dims = tensor_.sparse_dim(), count = static_cast<std::int64_t>(ids.size());
  at::Tensor indices = at::empty({dims, count}, at::kLong);
  auto* index = indices.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t rest = ids[static_cast<std::size_t>(i)];
    for (std::int64_t d = dims - 1; d >= 0; --d) {
      index[d * count + i] = rest % tensor_.size(d);
      rest /= tensor_.size(d);
    }
  }
  return indices.to(tensor_.device());
}

at::Tensor SparseArgument::values_for(std::size_t rows) const {
  std::vector<std::int64_t> sizes = {static_cast<std::int64_t>(rows)};
  const auto dense_sizes = tensor_.sizes().slice(static_cast<std::size_t>(tensor_.sparse_dim()));
  sizes.insert(sizes.end(), dense_sizes.begin(), dense_sizes.end());
  return at::empty(sizes, tensor_._values().options());
}

SparseArgument::Result SparseArgument::make_result(const std::vector<std::uint32_t>& ids) const {
  const at::NoGradGuard no_gradient;
  if (!is_coo()) {
    const auto elements = static_cast<std::int64_t>(shape_.table_rows * shape_.row_bytes / shape_.element_bytes);
    at::Tensor whole = at::zeros({elements}, tensor_.options().memory_format(std::nullopt));
    return {whole.narrow(0, 0, tensor_.numel()).view(tensor_.sizes()), whole.mutable_data_ptr()};
  }
  at::Tensor values = values_for(ids.size());
  void* rows = values.mutable_data_ptr();
  at::Tensor result =
      at::_sparse_coo_tensor_with_dims_and_tensors(tensor_.sparse_dim(), tensor_.dense_dim(), tensor_.sizes(),
                                                   indices_of(ids), values, tensor_.options(), /*is_coalesced=*/true);
  return {result, rows};
}

void* SparseArgument::put_result(const std::vector<std::uint32_t>& ids, at::Tensor& into) const {
  const at::NoGradGuard no_gradient;
  at::Tensor values = values_for(ids.size());
  auto* sparse = static_cast<at::SparseTensorImpl*>(into.unsafeGetTensorImpl());
  sparse->set_indices_and_values_unsafe(indices_of(ids), values);
  sparse->set_coalesced(true);
  return values.mutable_data_ptr();
}

}  // namespace merak
