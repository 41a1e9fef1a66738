#pragma once
// What a call that was started on a GPU returns. Only in builds with CUDA.

#include <c10/core/Device.h>

#include <memory>
#include <mutex>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "backend/work.h"
#include "transport/nccl_programs_cuda.h"

namespace merak {

// Thread-safe. Shared by a Work and who watches it.
class CudaInFlight {
 public:
  explicit CudaInFlight(CudaOperation operation) : operation_(std::move(operation)) {}

  const CudaOperation& operation() const { return operation_; }
  bool ended() const { return error() || operation_.done(); }
  std::exception_ptr error() const;  // torch's; null: none so far
  void fail(std::exception_ptr error);

 private:
  const CudaOperation operation_;
  mutable std::mutex mutex_;
  std::exception_ptr error_;
};

// As ProcessGroupNCCL's: wait() returns at once, having made the current stream wait; with a timeout it waits itself,
// too. The future is one of CUDA: whoever waits for it makes his streams wait.
class CudaWork final : public c10d::Work {
 public:
  // `inputs` only for the profiler; `outputs` are on `device`.
  CudaWork(std::shared_ptr<Membership> membership, merak::Work::About about, c10::Device device,
           const std::vector<at::Tensor>& inputs, std::vector<at::Tensor> outputs);

  // What it stands for; once, right after it was put on the current stream.
  void started(std::shared_ptr<CudaInFlight> in_flight);

  bool isCompleted() override { return in_flight_->ended(); }
  bool isSuccess() const override { return in_flight_->ended() && !in_flight_->error(); }
  std::exception_ptr exception() const override { return in_flight_->error(); }
  std::vector<at::Tensor> result() override { return outputs_; }
  void synchronize() override;
  bool wait(std::chrono::milliseconds timeout) override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  std::uint64_t getSequencenumber() const override { return about_.sequence; }

 private:
  const std::shared_ptr<Membership> membership_;
  const merak::Work::About about_;
  const c10::Device device_;
  const std::vector<at::Tensor> outputs_;
  std::shared_ptr<CudaInFlight> in_flight_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

}  // namespace merak
