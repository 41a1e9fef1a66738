#pragma once
// Programs on CUDA memory, beside the streams of the user. Only in builds with CUDA. Streams are cudaStream_t, on the
// GPU that is the current one.
//
// How a backend uses it, `reduce_on_device` being combine_on_device and divide_on_device of collectives/kernels_cuda.h:
//
//   rounds = nccl_rounds(programs of all ranks)[rank];                       // once for each shape
//   DeviceWork work = cuda_work(reduce_on_device);
//   CudaOperation operation = start_over_nccl({communicator, program, rounds, memory, work, timeout}, user, stream);
//   ... operation.done(), or: operation.make_wait(user);
//
// NCCL's kernels wait for those of other ranks. Where two communicators use the same GPUs, this one and that of the
// dense collectives, one rank must not run the first while another runs the second: start their operations in the same
// order on all ranks, and let each wait for the one before (make_wait).
//
// Whoever owns the memory must keep it until the operation is done (record_stream for what torch owns), and look at
// communicator.check() and at the clock while it is not: errors of messages show there.

#include <chrono>
#include <functional>
#include <memory>

#include "transport/nccl_programs.h"

namespace merak {

// Copies by cudaMemcpyAsync, reduces by `reduce`.
DeviceWork cuda_work(decltype(DeviceWork::reduce) reduce);

// An operation on a stream. Thread-safe.
class CudaOperation {
 public:
  explicit CudaOperation(std::shared_ptr<void> event) : event_(std::move(event)) {}

  bool done() const;                              // asks the device; throws std::runtime_error when that has failed
  void make_wait(CudaStreamHandle stream) const;  // what comes later on `stream` waits for it; returns at once

 private:
  std::shared_ptr<void> event_;
};

struct DeviceProgram {  // all of it used until start_over_nccl returns, `communicator` and memory until it is done
  NcclCommunicator& communicator;
  const Program& program;
  const Rounds& rounds;  // this rank's
  DeviceMemory memory;
  const DeviceWork& work;
  std::chrono::steady_clock::duration timeout;  // of starting each group
};

// Puts the program onto `stream`, after what is on `user` already, and returns. Throws NetworkError, TimeoutError, and
// std::runtime_error for errors of CUDA.
CudaOperation start_over_nccl(const DeviceProgram& task, CudaStreamHandle user, CudaStreamHandle stream);

}  // namespace merak
