#pragma once
// One operation in flight, as its starter sees it: something to wait for, with an outcome. And what starts it.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "transport/buffer.h"
#include "transport/prepared_program.h"
#include "transport/signature.h"

namespace merak {

using Clock = std::chrono::steady_clock;

// Longer ones count as this: added to the present time they might overflow.
inline constexpr std::chrono::milliseconds kLongestTimeout = std::chrono::hours(24 * 365);

// The arithmetic of kReduce and kSumRows steps, on elements of one type. A program without them needs none.
struct Reducer {
  std::size_t element_bytes = 1;
  void (*combine)(std::byte* at, const std::byte* from, std::size_t count) = nullptr;  // at = at (op) from
  void (*divide)(std::byte* at, std::size_t count, int divisor) = nullptr;  // after the last operand, for an average
  int divisor = 1;
  // Carries out the sums at these places, and divides each; `divisor` is 1 where nothing is to be divided.
  void (*sum_rows)(std::byte* at, const std::byte* from, const RowSums& sums, int divisor) = nullptr;
};

// What an operation does: a program, and what it works on.
struct Act {
  Signature signature;
  std::shared_ptr<const PreparedProgram> program;
  Buffer input, output;
  Reducer reducer;
  // Of an act that next_act() gives: work of this rank's own, for its callback thread, once the act is on its way.
  std::function<void()> beside = {};
  // What a message of the program carries, by step: for errors, which name what is late. Called under the engine's
  // lock.
  std::function<std::string(std::uint32_t step)> carries = {};
};

struct Request : Act {
  // An operation may have several acts: what the ranks exchange in one decides what they do in the next. When an act is
  // done, next_act() gives the one after it; called on a callback thread, `further_acts` times, which all ranks must
  // state alike. What it throws fails the group: all ranks must find the same. What its acts work on must be owned by
  // keep_alive.
  int further_acts = 0;
  std::function<Act()> next_act = {};
  int priority = 0;  // of ready sends, those of the operation with the highest priority go first
  Clock::duration timeout = std::chrono::minutes(30);
  std::shared_ptr<void> keep_alive;  // what owns the memory; released after the operation, never on the engine's thread
};

// Runs functions on threads of its own, so that no user's callback runs on the engine's thread or under its lock. A
// callback may wait for another operation, whose own callbacks must then not queue up behind it: when all threads are
// busy another one is started, up to kMost.
class CallbackThreads {
 public:
  static constexpr std::size_t kMost = 64;

  explicit CallbackThreads(int threads);
  ~CallbackThreads();  // runs what is queued, then joins
  CallbackThreads(const CallbackThreads&) = delete;

  void post(std::function<void()> callback);

  // Waits until nothing is queued and nothing runs, so that nothing is held either, or until `until`; returns whether
  // that is so.
  bool wait_until_idle(std::chrono::steady_clock::time_point until);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Thread-safe.
class Operation {
 public:
  Operation(CallbackThreads& callbacks, Clock::duration timeout, std::shared_ptr<void> keep_alive)
      : callbacks_(callbacks), timeout_(timeout), keep_alive_(std::move(keep_alive)) {}

  bool done() const { return done_.load(std::memory_order_acquire); }

  // Blocks until the operation is done, or until `until`; returns whether it is done.
  bool wait_until(Clock::time_point until);

  // Null while it runs and when it succeeded.
  std::exception_ptr error() const { return done() ? error_ : nullptr; }

  // Calls `callback` on a callback thread once the operation is done (soon, when it is done already).
  void on_done(std::function<void()> callback);

  // The rank that a received point-to-point message came from; -1 before it is known.
  int source() const { return source_.load(std::memory_order_acquire); }

  Clock::duration timeout() const { return timeout_; }

  // For the engine.
  void finish(std::exception_ptr error);
  void set_source(int rank) { source_.store(rank, std::memory_order_release); }

 private:
  CallbackThreads& callbacks_;
  const Clock::duration timeout_;
  const std::shared_ptr<void> keep_alive_;
  std::atomic<bool> done_{false};
  std::atomic<int> source_{-1};
  std::exception_ptr error_;  // written once, before done_
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::function<void()>> waiting_;  // callbacks
};

}  // namespace merak
