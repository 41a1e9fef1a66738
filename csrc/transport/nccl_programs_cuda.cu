#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "transport/for_each.h"
#include "transport/nccl_programs_cuda.h"

namespace merak {
namespace {

void check(cudaError_t result, const char* what) {
  if (result != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(result));
}

cudaStream_t stream_of(CudaStreamHandle handle) { return static_cast<cudaStream_t>(handle); }
cudaEvent_t event_of(const std::shared_ptr<void>& event) { return static_cast<cudaEvent_t>(event.get()); }

// Marks what is on the stream now. No event of ours is ever timed, which would make it slower.
std::shared_ptr<void> mark(CudaStreamHandle stream) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  std::shared_ptr<void> owner(event, [](void* last) { cudaEventDestroy(static_cast<cudaEvent_t>(last)); });
  check(cudaEventRecord(event, stream_of(stream)), "recording an event");
  return owner;
}

// Else a question, though it changes nothing, would spoil a CUDA graph that some thread is capturing.
class BesideCaptures {
 public:
  BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace

DeviceWork cuda_work(decltype(DeviceWork::reduce) reduce) {
  const auto copy = [](std::byte* at, const std::byte* from, std::size_t bytes, CudaStreamHandle stream) {
    check(cudaMemcpyAsync(at, from, bytes, cudaMemcpyDeviceToDevice, stream_of(stream)), "copying");
  };
  const auto copy_strided = [](std::byte* at, const std::byte* from, const StridedCopy& strided,
                               CudaStreamHandle stream) {
    with_copy_body(at, from, strided, /*share=*/1, [&](const auto& body, std::size_t lines) {
      for_each(OnCuda{stream_of(stream)}, lines * body.shares(), body);
    });
  };
  return {std::move(reduce), copy, {}, copy_strided};
}

bool CudaOperation::done() const {
  const BesideCaptures beside;
  const cudaError_t result = cudaEventQuery(event_of(event_));
  if (result == cudaErrorNotReady) {
    cudaGetLastError();  // forgets it: the next one to look for errors would take it for one
    return false;
  }
  check(result, "asking whether an operation is done");
  return true;
}

void CudaOperation::make_wait(CudaStreamHandle stream) const {
  check(cudaStreamWaitEvent(stream_of(stream), event_of(event_), 0), "waiting for an operation");
}

CudaOperation start_over_nccl(const DeviceProgram& task, CudaStreamHandle user, CudaStreamHandle stream) {
  CudaOperation(mark(user)).make_wait(stream);
  NcclCalls calls(task.communicator, task.work, stream, task.timeout);
  issue(task.program, task.rounds, task.memory, calls);
  check(cudaGetLastError(), "starting kernels");
  return CudaOperation(mark(stream));
}

}  // namespace merak
