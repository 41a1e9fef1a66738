#include "backend/tensor_checks.h"

#include <ATen/ops/resolve_conj.h>
#include <ATen/ops/resolve_neg.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <sstream>
#include <utility>

namespace merak {
namespace {

using RedOp = c10d::ReduceOp::RedOpType;

const char* name_of(RedOp op) {
  constexpr const char* kNames[] = {"SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM"};
  return op < std::size(kNames) ? kNames[op] : "UNUSED";
}

Reduction reduction_of(RedOp op) {
  switch (op) {
    case RedOp::SUM:
    case RedOp::PREMUL_SUM:
      return Reduction::kSum;
    case RedOp::AVG:
      return Reduction::kAverage;
    case RedOp::PRODUCT:
      return Reduction::kProduct;
    case RedOp::MIN:
      return Reduction::kMin;
    case RedOp::MAX:
      return Reduction::kMax;
    case RedOp::BAND:
      return Reduction::kBitAnd;
    case RedOp::BOR:
      return Reduction::kBitOr;
    case RedOp::BXOR:
      return Reduction::kBitXor;
    default:
      return Reduction::kNone;
  }
}

bool is_bitwise(RedOp op) { return op == RedOp::BAND || op == RedOp::BOR || op == RedOp::BXOR; }

// As Python has it: float32.
std::string dtype_name(at::ScalarType type) {
  const DType own = dtype_of(type);
  return own == DType::kBytes ? c10::toString(type) : name(own);
}

std::string describe(const at::Tensor& tensor) {
  std::ostringstream text;
  text << dtype_name(tensor.scalar_type()) << tensor.sizes() << " on " << tensor.device();
  return text.str();
}

// The memory of one tensor, first byte and one past the last.
using Extent = std::pair<const char*, const char*>;

std::vector<Extent> extents(const std::vector<at::Tensor>& tensors) {
  std::vector<Extent> all;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.numel() == 0) continue;
    std::int64_t last = 0;  // the element farthest from the first
    for (std::int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
    const char* first = static_cast<const char*>(tensor.const_data_ptr());
    all.emplace_back(first, first + (last + 1) * static_cast<std::int64_t>(tensor.element_size()));
  }
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace

DType dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kBool:
      return DType::kBool;
    case at::kByte:
      return DType::kUInt8;
    case at::kChar:
      return DType::kInt8;
    case at::kShort:
      return DType::kInt16;
    case at::kInt:
      return DType::kInt32;
    case at::kLong:
      return DType::kInt64;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kComplexFloat:
      return DType::kComplex64;
    case at::kComplexDouble:
      return DType::kComplex128;
    case at::kUInt16:
      return DType::kUInt16;
    case at::kUInt32:
      return DType::kUInt32;
    case at::kUInt64:
      return DType::kUInt64;
    case at::kFloat8_e4m3fn:
      return DType::kFloat8E4M3;
    case at::kFloat8_e5m2:
      return DType::kFloat8E5M2;
    case at::kFloat8_e4m3fnuz:
      return DType::kFloat8E4M3Fnuz;
    case at::kFloat8_e5m2fnuz:
      return DType::kFloat8E5M2Fnuz;
    case at::kFloat8_e8m0fnu:
      return DType::kFloat8E8M0;
    default:
      return DType::kBytes;
  }
}

bool share_memory(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs) {
  const auto written = extents(outputs);
  for (const Extent& read : extents(inputs)) {
    const auto next = std::lower_bound(written.begin(), written.end(), Extent(read.first, nullptr));
    if (next != written.end() && next->first < read.second) return true;
    if (next != written.begin() && std::prev(next)->second > read.first) return true;
  }
  return false;
}

at::Tensor contiguous_input(const at::Tensor& tensor) {
  if (tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()) return tensor;
  return at::resolve_neg(at::resolve_conj(tensor.detach())).contiguous();
}

void TensorChecks::refuse(const std::string& problem) const {
  before_refusing_();
  TORCH_CHECK_VALUE(false, operation_, ": ", problem);
}

void TensorChecks::require(bool condition, const std::string& problem) const {
  if (!condition) refuse(problem);
}

void TensorChecks::count(const char* argument, std::size_t found, std::size_t expected) const {
  if (found == expected) return;
  refuse(std::string(argument) + " has " + std::to_string(found) + " tensors; pass " + std::to_string(expected) + ".");
}

void TensorChecks::rank(const char* argument, std::int64_t rank) const {
  if (rank >= 0 && rank < size_) return;
  refuse(std::string(argument) + " is rank " + std::to_string(rank) + " of the group, whose ranks are 0 to " +
         std::to_string(size_ - 1) + ".");
}

void TensorChecks::readable(const char* argument, const at::Tensor& tensor) const {
  if (!tensor.defined()) refuse(std::string(argument) + " is an undefined tensor.");
  if (tensor.layout() != at::kStrided) {
    std::ostringstream layout;
    layout << tensor.layout();
    refuse(std::string(argument) + " has layout " + layout.str() +
           "; merak takes dense tensors here (sparse COO ones in all_reduce on CPU). Call .to_dense() first.");
  }
  if (!tensor.device().is_cpu()) {
    refuse(std::string(argument) + " is " + describe(tensor) +
           ", where a CPU tensor is needed: all tensors of a call must be on one device, cpu or cuda.");
  }
}

void TensorChecks::readable(const char* argument, const std::vector<at::Tensor>& tensors) const {
  for (const at::Tensor& tensor : tensors) readable(argument, tensor);
}

void TensorChecks::writable(const char* argument, const at::Tensor& tensor) const {
  readable(argument, tensor);
  if (tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()) return;
  std::ostringstream found;
  found << describe(tensor) << " with strides " << tensor.strides();
  refuse("what is written to must be contiguous (and no lazily conjugated view), but of " + std::string(argument) +
         " there is " + found.str() + ". Pass a contiguous tensor and copy the result from it.");
}

void TensorChecks::writable(const char* argument, const std::vector<at::Tensor>& tensors) const {
  for (const at::Tensor& tensor : tensors) writable(argument, tensor);
  if (tensors.size() < 2) return;
  const auto all = extents(tensors);
  for (std::size_t i = 1; i < all.size(); ++i) {
    if (all[i].first >= all[i - 1].second) continue;
    refuse(std::string("two tensors of ") + argument +
           " share memory, so that one result would overwrite the other. Pass tensors of their own.");
  }
}

void TensorChecks::matches(const char* argument, const at::Tensor& tensor, std::int64_t elements,
                           at::ScalarType dtype) const {
  if (tensor.numel() == elements && tensor.scalar_type() == dtype) return;
  std::ostringstream text;
  text << argument << " is " << describe(tensor) << ", where " << elements << " elements of " << dtype_name(dtype)
       << " are needed; give it that size and type.";
  refuse(text.str());
}

void TensorChecks::one_dtype(const char* argument, const std::vector<at::Tensor>& tensors) const {
  for (const at::Tensor& tensor : tensors) {
    if (tensor.scalar_type() == tensors.front().scalar_type()) continue;
    refuse(std::string(argument) + " must all have one dtype, but there are " + describe(tensors.front()) + " and " +
           describe(tensor) + "; make one call for each dtype.");
  }
}

Reduction TensorChecks::reduction(const c10d::ReduceOp& op, at::ScalarType dtype) const {
  const RedOp kind = op.op_;
  const std::string on = std::string("ReduceOp.") + name_of(kind) + " on " + dtype_name(dtype) + " tensors";
  require(reduction_of(kind) != Reduction::kNone, "this ReduceOp is not supported.");
  require(dtype_of(dtype) < DType::kUInt16,
          on + " is not supported: merak moves this dtype, but does not compute with it. Convert the tensor first.");
  const bool is_float = at::isFloatingType(dtype), is_complex = at::isComplexType(dtype);
  require(!is_bitwise(kind) || !(is_float || is_complex),
          on + " is not supported: bitwise operators need an integer or bool dtype.");
  require(!is_complex || (kind != RedOp::MIN && kind != RedOp::MAX),
          on + " is not supported: complex numbers have no order.");
  require(kind != RedOp::AVG || is_float || is_complex,
          on + " is not supported: use SUM and divide, or convert to a floating-point dtype.");
  require(kind != RedOp::PREMUL_SUM || is_float || is_complex, on + " is not supported: use a floating-point dtype.");
  return reduction_of(kind);
}

}  // namespace merak
