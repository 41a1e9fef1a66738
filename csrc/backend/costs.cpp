// What the operations of a group cost: measured (collectives/calibration.h) before the first one whose plan asks.

#include "backend/backend.h"
#include "backend/interruptible_wait.h"
#include "collectives/calibration.h"
#include "transport/engine.h"

namespace merak {
namespace {

// An operation of the group, waited for.
double run(Group& group, Request request) {
  const WithoutGil no_gil;
  const auto begin = Clock::now();
  const std::shared_ptr<Operation> operation = Engine::process().start(group, std::move(request));
  // It ends by itself when its time is over.
  wait_interruptibly([&](Clock::time_point until) { return operation->wait_until(until); }, Clock::time_point::max());
  if (operation->error()) std::rethrow_exception(operation->error());
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

const Costs& Backend::costs(const std::shared_ptr<Group>& group, Clock::duration timeout) {
  std::lock_guard lock(costs_mutex_);
  if (costs_) return *costs_;
  const auto run_program = [&](Program program, Buffer input, Buffer output, const std::shared_ptr<void>& memory) {
    Request request;
    request.signature.kind = OperationKind::kSparseAllReduce;
    request.program = std::make_shared<PreparedProgram>(std::move(program));
    request.input = std::move(input), request.output = std::move(output);
    request.timeout = timeout, request.keep_alive = memory;
    return run(*group, std::move(request));
  };
  return costs_.emplace(calibrate(getRank(), plans(timeout).topology(), run_program));
}

}  // namespace merak
