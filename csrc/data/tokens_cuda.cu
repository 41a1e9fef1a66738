#include "data/tokens_cuda.h"

namespace merak::data {

void keep_tokens_cuda(const KeptTokensOf& of, std::size_t sequences, std::uint32_t length, std::uint32_t kept,
                      std::int64_t* index, cudaStream_t stream) {
  keep_tokens(OnCuda{stream}, of, sequences, length, kept, index);
}

void gather_tokens_cuda(const TokenMove& move, const void* full, void* part, cudaStream_t stream) {
  gather_tokens(OnCuda{stream}, move, full, part);
}

void place_tokens_cuda(const TokenMove& move, const void* part, void* full, cudaStream_t stream) {
  place_tokens(OnCuda{stream}, move, part, full);
}

}  // namespace merak::data
