#include "backend/work.h"

#include <ATen/core/jit_type.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "backend/interruptible_wait.h"
#include "backend/torch_errors.h"

namespace merak {
namespace {

std::string duration(Clock::duration time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
}

// As torch's other backends type it: a list of tensors, or of such lists.
c10::TypePtr future_type(bool several_lists) {
  c10::TypePtr list = c10::ListType::create(c10::TensorType::get());
  return several_lists ? c10::ListType::create(list) : list;
}

c10::IValue future_value(const TensorLists& outputs) {
  if (outputs.size() > 1) return c10::IValue(outputs);
  return c10::IValue(outputs.empty() ? std::vector<at::Tensor>() : outputs.front());
}

}  // namespace

struct Work::Range {
  std::function<void()> finish;
  std::once_flag once;

  void end() { std::call_once(once, finish); }
};

Work::Work(std::shared_ptr<Membership> membership, About about, const std::vector<at::Tensor>& inputs, Outputs outputs,
           bool several_lists)
    : c10d::Work(membership->identity().rank, about.type, about.profiler_title, inputs),
      membership_(std::move(membership)),
      about_(std::move(about)),
      outputs_(std::move(outputs)),
      several_lists_(several_lists) {
  if (!recordFunctionEndCallback_) return;
  range_ = std::make_shared<Range>();
  range_->finish = std::exchange(recordFunctionEndCallback_, nullptr);
}

Work::~Work() = default;

void Work::started(std::shared_ptr<Operation> operation) {
  operation_ = std::move(operation);
  if (range_) operation_->on_done([range = range_] { range->end(); });
}

bool Work::isSuccess() const { return operation_->done() && !operation_->error(); }

std::exception_ptr Work::exception() const { return as_torch_error(operation_->error()); }

int Work::sourceRank() const {
  TORCH_CHECK(about_.type == c10d::OpType::RECVANYSOURCE, about_.text,
              ": only a receive from any source has a source to ask for.");
  return operation_->source();
}

std::vector<at::Tensor> Work::result() {
  TORCH_CHECK(isCompleted(), about_.text,
              ": result() was called before the operation was complete; call wait() first.");
  TORCH_CHECK(!several_lists_, about_.text, ": has a list of lists of tensors; take it from get_future().value().");
  const TensorLists outputs = outputs_();
  return outputs.empty() ? std::vector<at::Tensor>() : outputs.front();
}

bool Work::wait(std::chrono::milliseconds timeout) {
  if (!operation_->done()) {
    with_torch_errors([this] { membership_->check_same_process(); });
    const WithoutGil without_gil;
    const bool limited = timeout > kNoTimeout && timeout < kLongestTimeout;
    const auto until = limited ? Clock::now() + timeout : Clock::time_point::max();
    const auto begin = Clock::now();
    const bool done = wait_interruptibly([this](auto until) { return operation_->wait_until(until); }, until);
    if (about_.waited != nullptr) about_.waited(std::chrono::duration<double>(Clock::now() - begin).count());
    if (!done) {
      const GroupIdentity& me = membership_->identity();
      C10_THROW_ERROR(DistBackendError, about_.text + " of group '" + me.name + "', rank " + std::to_string(me.rank) +
                                            " of " + std::to_string(me.size) + ", did not complete within the " +
                                            duration(timeout) +
                                            " given to wait(). It goes on, until its own timeout of " +
                                            duration(operation_->timeout()) + "; wait again, or abort the group.");
    }
  }
  if (range_) range_->end();
  if (auto error = exception()) std::rethrow_exception(error);
  return true;
}

void Work::abort() { membership_->abort("Work.abort() was called on " + about_.text); }

c10::intrusive_ptr<c10::ivalue::Future> Work::getFuture() {
  std::lock_guard lock(mutex_);
  if (future_) return future_;
  future_ = c10::make_intrusive<c10::ivalue::Future>(future_type(several_lists_));
  operation_->on_done([future = future_, operation = operation_, outputs = outputs_] {
    if (auto error = operation->error()) {
      future->setError(as_torch_error(error));
    } else {
      future->markCompleted(future_value(outputs()));
    }
  });
  return future_;
}

c10::intrusive_ptr<c10::ivalue::Future> Work::getFutureResult() {
  std::lock_guard lock(mutex_);
  if (future_result_) return future_result_;
  future_result_ = c10::make_intrusive<c10::ivalue::Future>(c10::IntType::get());
  operation_->on_done([future = future_result_, operation = operation_] {
    const auto result = operation->error() ? c10d::WorkResult::COMM_ERROR : c10d::WorkResult::SUCCESS;
    future->markCompleted(c10::IValue(static_cast<std::uint8_t>(result)));
  });
  return future_result_;
}

std::chrono::milliseconds Work::getTimeout() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(operation_->timeout());
}

CoalescedWork::CoalescedWork(int rank, std::vector<c10::intrusive_ptr<c10d::Work>> works)
    : c10d::Work(rank, c10d::OpType::COALESCED), works_(std::move(works)) {}

bool CoalescedWork::isCompleted() {
  for (const auto& work : works_) {
    if (!work->isCompleted()) return false;
  }
  return true;
}

bool CoalescedWork::isSuccess() const {
  for (const auto& work : works_) {
    if (!work->isSuccess()) return false;
  }
  return true;
}

std::exception_ptr CoalescedWork::exception() const {
  for (const auto& work : works_) {
    if (auto error = work->exception()) return error;
  }
  return nullptr;
}

std::vector<at::Tensor> CoalescedWork::result() {
  std::vector<at::Tensor> all;
  for (const auto& work : works_) {
    for (at::Tensor& tensor : work->result()) all.push_back(std::move(tensor));
  }
  return all;
}

void CoalescedWork::synchronize() {
  for (const auto& work : works_) work->synchronize();
}

bool CoalescedWork::wait(std::chrono::milliseconds timeout) {
  const auto until = Clock::now() + std::min(timeout, kLongestTimeout);
  for (const auto& work : works_) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    work->wait(timeout > kNoTimeout ? std::max(left, std::chrono::milliseconds(1)) : timeout);
  }
  return true;
}

void CoalescedWork::abort() {
  for (const auto& work : works_) work->abort();
}

c10::intrusive_ptr<c10::ivalue::Future> CoalescedWork::getFuture() {
  c10::List<c10::intrusive_ptr<c10::ivalue::Future>> futures(
      c10::FutureType::create(c10::ListType::create(c10::TensorType::get())));
  for (const auto& work : works_) futures.push_back(work->getFuture());
  return c10::collectAll(futures);
}

}  // namespace merak
