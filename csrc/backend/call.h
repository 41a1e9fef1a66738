#pragma once
// One call of a collective or a send or receive, while it is put together from tensors.

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <utility>
#include <vector>

#include "backend/tensor_checks.h"
#include "backend/work.h"
#include "collectives/choose.h"
#include "transport/operation.h"

namespace merak {

struct Call {
  Call(const char* operation, c10d::OpType type, TensorChecks check)
      : operation(operation), type(type), check(std::move(check)) {}

  const char* operation;  // as users know it: "all_reduce"
  c10d::OpType type;
  TensorChecks check;
  CollectiveShape shape;  // with signature, what is not said below
  Request request;
  std::vector<at::Tensor> inputs;            // as the user gave them, for the profiler
  TensorLists outputs;                       // what the Work's result is
  void (*waited)(double seconds) = nullptr;  // as in Work::About
  // What every buffer points into. Not the tensors, which may be given other memory while the operation goes on.
  std::vector<c10::Storage> memory;

  // Append the memory of tensors to what goes in and to what comes out. Inputs that are not contiguous are copied.
  void read(const at::Tensor& tensor);
  void write(const at::Tensor& tensor);

  // States the element type, and the size that all ranks must state alike.
  void set_size(at::ScalarType dtype, std::size_t bytes);
  void set_reduction(const c10d::ReduceOp& op, at::ScalarType dtype, int size);
  void set_root(std::int64_t root);
};

// What PREMUL_SUM asks for: the tensor times the factor, a new tensor. With any other operator: the tensor.
at::Tensor premultiplied(const at::Tensor& tensor, const c10d::ReduceOp& op);

// Part `index` of `parts` equal ones of a contiguous tensor, in memory order. Needs numel() to be divisible.
at::Tensor part_of(const at::Tensor& tensor, int index, int parts);

std::size_t bytes_of(const at::Tensor& tensor);
std::size_t bytes_of(const std::vector<at::Tensor>& tensors);

}  // namespace merak
