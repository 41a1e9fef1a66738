#pragma once
// What a call of a collective returns: an operation in flight, as torch sees it.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "backend/membership.h"
#include "transport/operation.h"

namespace merak {

using TensorLists = std::vector<std::vector<at::Tensor>>;

// Thread-safe.
class Work final : public c10d::Work {
 public:
  struct About {
    c10d::OpType type = c10d::OpType::UNKNOWN;
    const char* profiler_title = nullptr;      // outlives every Work
    std::string text;                          // for errors: "all_reduce(float32, sum, 4096 bytes)"
    std::uint64_t sequence = 0;                // among the group's collectives
    void (*waited)(double seconds) = nullptr;  // may be null; told of every wait() how long it took
  };

  // What result() and the future give; asked for when the operation is done.
  using Outputs = std::function<TensorLists()>;

  // `inputs` only for the profiler; `several_lists`: of a future's value, whether it is a list of lists of tensors.
  Work(std::shared_ptr<Membership> membership, About about, const std::vector<at::Tensor>& inputs, Outputs outputs,
       bool several_lists);
  ~Work() override;

  // What it stands for; once, right after construction. The profiler's range begins before the operation does.
  void started(std::shared_ptr<Operation> operation);

  bool isCompleted() override { return operation_->done(); }
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override;
  std::vector<at::Tensor> result() override;
  void synchronize() override {}

  // Raises the operation's error. A timeout shorter than the operation's own makes this wait fail, not the operation.
  bool wait(std::chrono::milliseconds timeout) override;

  // Fails the group: its ranks cannot agree any more on what this operation did.
  void abort() override;

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;
  std::uint64_t getSequencenumber() const override { return about_.sequence; }
  // Virtual in c10d::Work of torch 2.15; no `override`, since that of 2.11 lacks it.
  std::chrono::milliseconds getTimeout() const;

 private:
  // The profiler's range, ended by whoever sees the operation's end first: a waiter or a callback thread.
  struct Range;

  const std::shared_ptr<Membership> membership_;
  const About about_;
  const Outputs outputs_;
  const bool several_lists_;
  std::shared_ptr<Operation> operation_;
  std::shared_ptr<Range> range_;                                    // null without a profiler
  c10::intrusive_ptr<c10::ivalue::Future> future_, future_result_;  // made when first asked for
};

// Several works as one: what endCoalescing returns.
class CoalescedWork final : public c10d::Work {
 public:
  CoalescedWork(int rank, std::vector<c10::intrusive_ptr<c10d::Work>> works);

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  std::vector<at::Tensor> result() override;
  void synchronize() override;
  bool wait(std::chrono::milliseconds timeout) override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

 private:
  const std::vector<c10::intrusive_ptr<c10d::Work>> works_;
};

}  // namespace merak
