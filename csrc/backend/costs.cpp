// What the operations of a group cost: measured (collectives/calibration.h) before the first one whose plan asks.

#include <ATen/Context.h>

#include <algorithm>

#include "backend/backend.h"
#include "backend/interruptible_wait.h"
#include "backend/torch_errors.h"
#include "collectives/calibration.h"
#include "transport/engine.h"

namespace merak {
namespace {

// An operation of the group, waited for: it ends by itself when its time is over.
double run(Group& group, Request request) {
  const auto begin = Clock::now();
  wait_interruptibly(*Engine::process().start(group, std::move(request)));
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

const Costs& Backend::costs(const std::shared_ptr<Group>& group, Clock::time_point deadline) {
  std::lock_guard lock(costs_mutex_);
  if (costs_) return *costs_;
  // What is measured differs from run to run, and with it what is chosen, and the order of sums.
  if (at::globalContext().deterministicAlgorithms()) return costs_.emplace();
  const auto run_program = [&](Program program, Buffer input, Buffer output, const std::shared_ptr<void>& memory) {
    Request request;
    request.signature.kind = OperationKind::kMeasuring;
    request.program = std::make_shared<PreparedProgram>(std::move(program));
    request.input = std::move(input), request.output = std::move(output);
    request.timeout = std::max<Clock::duration>(deadline - Clock::now(), std::chrono::milliseconds(1));
    request.keep_alive = memory;
    return run(*group, std::move(request));
  };
  try {
    return costs_.emplace(calibrate(getRank(), plans(deadline - Clock::now()).topology(), run_program));
  } catch (...) {
    // The others are in the midst of it, and this rank would begin anew.
    if (!membership_->failure())
      membership_->abort("measuring what the group's operations cost was interrupted on rank " +
                         std::to_string(getRank()));
    throw;
  }
}

std::optional<Costs> Backend::measured_costs() {
  std::lock_guard lock(costs_mutex_);
  return costs_;
}

void Backend::take_costs(const std::optional<Costs>& measured) {
  std::lock_guard lock(costs_mutex_);
  if (!costs_) costs_ = measured;
}

void Backend::measure(std::chrono::milliseconds timeout) {
  with_torch_errors([&] {
    const auto deadline = Clock::now() + timeout_or_default(timeout);
    costs(membership_->group(timeout_or_default(timeout)), deadline);
  });
}

}  // namespace merak
