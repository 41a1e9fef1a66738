#pragma once
// The operations of data.cpp on CUDA tensors: by data_on_cuda.cu, or refused by data_without_cuda.cpp.

#include <ATen/core/Tensor.h>

#include "data/kept_tokens.h"
#include "data/move_tokens.h"

namespace merak::data {

// As gather_tokens(), place_tokens() and keep_tokens() have it, on the current stream of the tensors' device.
void gather_on_cuda(const TokenMove& move, const at::Tensor& full, at::Tensor& part);
void place_on_cuda(const TokenMove& move, const at::Tensor& part, at::Tensor& full);
void keep_on_cuda(const KeptTokensOf& of, std::uint32_t length, at::Tensor& index);

}  // namespace merak::data
