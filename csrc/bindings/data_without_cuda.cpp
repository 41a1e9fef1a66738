#include <c10/util/Exception.h>

#include "backend/cuda_programs.h"
#include "bindings/data_on_cuda.h"

namespace merak::data {
namespace {

[[noreturn]] void refuse(const char* operation) {
  TORCH_CHECK_VALUE(false, operation, ": ", CudaPrograms::kMissing);
  __builtin_unreachable();
}

}  // namespace

void gather_on_cuda(const TokenMove&, const at::Tensor&, at::Tensor&) { refuse("gather_tokens"); }
void place_on_cuda(const TokenMove&, const at::Tensor&, at::Tensor&) { refuse("place_tokens"); }
void keep_on_cuda(const KeptTokensOf&, std::uint32_t, at::Tensor&) { refuse("keep_tokens"); }

}  // namespace merak::data
