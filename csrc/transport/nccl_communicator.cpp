#include "transport/nccl_communicator.h"

#include <thread>
#include <utility>

#include "transport/errors.h"

namespace merak {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kBetweenQuestions = std::chrono::microseconds(20);
constexpr auto kBetweenChecks = std::chrono::milliseconds(50);
constexpr auto kPeacefulEnd = std::chrono::seconds(5);

std::string seconds_of(Clock::duration duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(duration).count()) + " s";
}

bool failed(int result) { return result != kNcclSuccess && result != kNcclInProgress; }

}  // namespace

NcclUniqueId new_nccl_id(const NcclApi& api) {
  NcclUniqueId id;
  const int result = api.get_unique_id(&id);
  if (result != kNcclSuccess)
    throw NetworkError(std::string("NCCL makes no communicator: ") + api.get_error_string(result) +
                       ". Run with NCCL_DEBUG=WARN to see why.");
  return id;
}

NcclCommunicator::NcclCommunicator(const NcclApi& api, const NcclUniqueId& id, int rank, int size, Duration timeout,
                                   std::function<void()> check)
    : api_(api),
      while_waiting_(std::move(check)),
      who_("rank " + std::to_string(rank) + " of " + std::to_string(size)) {
  const Deadline deadline = Clock::now() + timeout;
  NcclConfig config;
  const int result = api_.comm_init_rank_config(&comm_, size, id, rank, &config);
  const std::string what = "meeting the other ranks, within " + seconds_of(timeout);
  if (failed(result)) fail(what, result);
  wait(what, deadline);
}

NcclCommunicator::~NcclCommunicator() {
  if (finalize())
    api_.comm_destroy(comm_);
  else
    abort();
}

// Whether all that was begun has ended well, here and with the peers.
bool NcclCommunicator::finalize() {
  {
    std::lock_guard lock(mutex_);
    if (!comm_ || failed(api_.comm_finalize(comm_))) return false;
  }
  for (const Deadline deadline = Clock::now() + kPeacefulEnd; Clock::now() < deadline;) {
    const std::optional<int> result = state();
    if (result != kNcclInProgress) return result == kNcclSuccess;
    std::this_thread::sleep_for(kBetweenQuestions);
  }
  return false;
}

void NcclCommunicator::group_start() {
  first_failure_ = kNcclSuccess;
  note(api_.group_start());
}

void NcclCommunicator::send(const void* from, std::size_t bytes, int peer, CudaStreamHandle stream) {
  std::lock_guard lock(mutex_);
  if (comm_) note(api_.send(from, bytes, kNcclUInt8, peer, comm_, stream));
}

void NcclCommunicator::receive(void* to, std::size_t bytes, int peer, CudaStreamHandle stream) {
  std::lock_guard lock(mutex_);
  if (comm_) note(api_.receive(to, bytes, kNcclUInt8, peer, comm_, stream));
}

// The group is closed whatever happened in it: NCCL counts groups by thread, and would add all later calls to it.
void NcclCommunicator::group_end(Duration timeout) {
  const Deadline deadline = Clock::now() + timeout;
  const std::string what = "starting messages, within " + seconds_of(timeout);
  {
    std::lock_guard lock(mutex_);
    note(api_.group_end());
  }
  if (first_failure_ != kNcclSuccess) fail(what, first_failure_);
  wait(what, deadline);
}

void NcclCommunicator::check() { require_health("messages"); }

void NcclCommunicator::abort() {
  std::lock_guard lock(mutex_);
  if (comm_) api_.comm_abort(comm_);
  comm_ = nullptr;
}

void NcclCommunicator::note(int result) {
  if (failed(result) && first_failure_ == kNcclSuccess) first_failure_ = result;
}

// Empty: aborted.
std::optional<int> NcclCommunicator::state() {
  std::lock_guard lock(mutex_);
  if (!comm_) return std::nullopt;
  int state = kNcclSuccess;
  const int result = api_.comm_get_async_error(comm_, &state);
  return result == kNcclSuccess ? state : result;
}

// Whether all calls have taken effect.
bool NcclCommunicator::require_health(const std::string& what) {
  const std::optional<int> result = state();
  if (!result) throw NetworkError("NCCL, " + who_ + ": the communicator was aborted; make a new group.");
  if (failed(*result)) fail(what, *result);
  return *result == kNcclSuccess;
}

void NcclCommunicator::wait(const std::string& what, Deadline deadline) {
  Deadline next_check = Clock::now() + kBetweenChecks;
  while (!require_health(what)) {
    if (Clock::now() > deadline) time_out(what);
    if (while_waiting_ && Clock::now() > next_check) {
      call_check();
      next_check = Clock::now() + kBetweenChecks;
    }
    std::this_thread::sleep_for(kBetweenQuestions);
  }
}

void NcclCommunicator::call_check() {
  try {
    while_waiting_();
  } catch (...) {
    abort();
    throw;
  }
}

void NcclCommunicator::time_out(const std::string& what) {
  abort();
  throw TimeoutError("NCCL, " + who_ + ": " + what +
                     ", was not done. See whether all ranks are alive and call the same operations in the same "
                     "order; if they do, raise the group's timeout.");
}

void NcclCommunicator::fail(const std::string& what, int result) {
  abort();
  throw NetworkError("NCCL, " + who_ + ": " + what + ": " + api_.get_error_string(result) +
                     ". See whether all ranks are alive, and run with NCCL_DEBUG=WARN to see more.");
}

}  // namespace merak
