#pragma once
// kept_tokens.h and move_tokens.h on a GPU, on raw device pointers and a stream. Asynchronous: errors of the launch
// show in cudaGetLastError.

#include <cuda_runtime.h>

#include "data/kept_tokens.h"
#include "data/move_tokens.h"

namespace merak::data {

void keep_tokens_cuda(const KeptTokensOf& of, std::size_t sequences, std::uint32_t length, std::uint32_t kept,
                      std::int64_t* index, cudaStream_t stream);
void gather_tokens_cuda(const TokenMove& move, const void* full, void* part, cudaStream_t stream);
void place_tokens_cuda(const TokenMove& move, const void* part, void* full, cudaStream_t stream);

}  // namespace merak::data
