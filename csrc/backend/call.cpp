#include "backend/call.h"

#include <ATen/ops/mul.h>

#include "collectives/kernels.h"

namespace merak {

void Call::read(const at::Tensor& tensor) {
  check.readable("the input", tensor);
  const at::Tensor dense = contiguous_input(tensor);
  memory.push_back(dense.storage());
  request.input.append(const_cast<void*>(dense.const_data_ptr()), bytes_of(dense));
}

void Call::write(const at::Tensor& tensor) {
  memory.push_back(tensor.storage());
  request.output.append(tensor.mutable_data_ptr(), bytes_of(tensor));
}

void Call::set_size(at::ScalarType dtype, std::size_t bytes) {
  request.signature.dtype = dtype_of(dtype);
  request.signature.bytes = bytes;
  shape.bytes = bytes;
  shape.element_bytes = c10::elementSize(dtype);
}

void Call::set_reduction(const c10d::ReduceOp& op, at::ScalarType dtype, int size) {
  request.signature.reduction = check.reduction(op, dtype);
  request.reducer = make_reducer(request.signature.dtype, request.signature.reduction, size);
}

void Call::set_root(std::int64_t root) {
  check.rank("the root", root);
  request.signature.root = shape.root = static_cast<int>(root);
}

at::Tensor premultiplied(const at::Tensor& tensor, const c10d::ReduceOp& op) {
  if (op.op_ != c10d::ReduceOp::PREMUL_SUM) return tensor;
  const auto* factor = static_cast<const c10d::NCCLPreMulSumSupplement*>(op.supplement_.get());
  if (factor->tensor_factor.defined()) return at::mul(tensor, factor->tensor_factor.to(tensor.scalar_type()));
  return at::mul(tensor, factor->double_factor);
}

at::Tensor part_of(const at::Tensor& tensor, int index, int parts) {
  const std::int64_t elements = tensor.numel() / parts;
  return tensor.view({-1}).narrow(0, index * elements, elements);
}

std::size_t bytes_of(const at::Tensor& tensor) { return tensor.nbytes(); }

std::size_t bytes_of(const std::vector<at::Tensor>& tensors) {
  std::size_t bytes = 0;
  for (const at::Tensor& tensor : tensors) bytes += bytes_of(tensor);
  return bytes;
}

}  // namespace merak
