#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>

#include <thread>
#include <utility>

#include "backend/cuda_work.h"
#include "backend/interruptible_wait.h"
#include "backend/torch_errors.h"

namespace merak {
namespace {

constexpr auto kBetweenLooks = std::chrono::milliseconds(1);

}  // namespace

std::exception_ptr CudaInFlight::error() const {
  std::lock_guard lock(mutex_);
  return error_;
}

void CudaInFlight::fail(std::exception_ptr error) {
  std::lock_guard lock(mutex_);
  error_ = as_torch_error(std::move(error));
}

CudaWork::CudaWork(std::shared_ptr<Membership> membership, merak::Work::About about, c10::Device device,
                   const std::vector<at::Tensor>& inputs, std::vector<at::Tensor> outputs)
    : c10d::Work(membership->identity().rank, about.type, about.profiler_title, inputs),
      membership_(std::move(membership)),
      about_(std::move(about)),
      device_(device),
      outputs_(std::move(outputs)) {}

void CudaWork::started(std::shared_ptr<CudaInFlight> in_flight) {
  in_flight_ = std::move(in_flight);
  future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                     std::vector<c10::Device>{device_});
  future_->markCompleted(c10::IValue(outputs_));  // notes the current stream, for which others will wait
  if (recordFunctionEndCallback_) std::exchange(recordFunctionEndCallback_, nullptr)();
}

void CudaWork::synchronize() {
  if (auto error = exception()) std::rethrow_exception(error);
  in_flight_->operation().make_wait(c10::cuda::getCurrentCUDAStream(device_.index()).stream());
}

bool CudaWork::wait(std::chrono::milliseconds timeout) {
  synchronize();
  if (timeout <= kNoTimeout || timeout >= kLongestTimeout) return true;
  const WithoutGil without_gil;
  const auto ended_by = [this](Clock::time_point until) {
    while (!in_flight_->ended() && Clock::now() < until) std::this_thread::sleep_for(kBetweenLooks);
    return in_flight_->ended();
  };
  if (!wait_interruptibly(ended_by, Clock::now() + timeout))
    C10_THROW_ERROR(DistBackendError, about_.text + " did not complete within the " + std::to_string(timeout.count()) +
                                          " ms given to wait(). It goes on; wait again, or abort the group.");
  if (auto error = exception()) std::rethrow_exception(error);
  return true;
}

void CudaWork::abort() { membership_->abort("Work.abort() was called on " + about_.text); }

}  // namespace merak
