#pragma once
// What a collective may be given: refused here, with ValueError and a text that names the operation, the argument, what
// was found and what to do, is all that one rank can see to be wrong. (What ranks disagree about the engine finds.)

#include <ATen/core/Tensor.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <utility>
#include <vector>

#include "transport/signature.h"

namespace merak {

// One call, for the texts: `operation` as users know it ("all_reduce").
class TensorChecks {
 public:
  // `before_refusing` is called before an error is raised.
  TensorChecks(
      const char* operation, int size, std::function<void()> before_refusing = [] {})
      : operation_(operation), size_(size), before_refusing_(std::move(before_refusing)) {}

  void require(bool condition, const std::string& problem) const;

  // What `make` returns; refuses, for its reason, where it throws std::invalid_argument.
  template <class Make>
  auto accepted(Make make) const {
    try {
      return make();
    } catch (const std::invalid_argument& error) {
      refuse(error.what());
    }
  }

  // Of a list argument: that it has that many entries.
  void count(const char* argument, std::size_t found, std::size_t expected) const;
  void rank(const char* argument, std::int64_t rank) const;

  // On the CPU, dense.
  void readable(const char* argument, const at::Tensor& tensor) const;
  void readable(const char* argument, const std::vector<at::Tensor>& tensors) const;

  // Also contiguous, and no two sharing memory.
  void writable(const char* argument, const at::Tensor& tensor) const;
  void writable(const char* argument, const std::vector<at::Tensor>& tensors) const;

  // That the tensor has that many elements of that type.
  void matches(const char* argument, const at::Tensor& tensor, std::int64_t elements, at::ScalarType dtype) const;
  // That all have the type of the first.
  void one_dtype(const char* argument, const std::vector<at::Tensor>& tensors) const;

  // What merak computes for that operator; refuses those that make no sense for the type.
  Reduction reduction(const c10d::ReduceOp& op, at::ScalarType dtype) const;

 private:
  [[noreturn]] void refuse(const std::string& problem) const;

  const char* operation_;
  int size_;
  std::function<void()> before_refusing_;
};

// kBytes for types that merak moves, but does not compute with.
DType dtype_of(at::ScalarType type);

// Whether any of `inputs` has memory that is also an output's. Needs outputs that writable() accepts.
bool share_memory(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs);

// The tensor as it is read element by element: itself, or a contiguous copy.
at::Tensor contiguous_input(const at::Tensor& tensor);

}  // namespace merak
