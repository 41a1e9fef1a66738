#include "transport/operation.h"

#include <deque>
#include <system_error>
#include <thread>
#include <utility>

#include "transport/thread.h"

namespace merak {

struct CallbackThreads::State {
  std::mutex mutex;
  std::condition_variable changed, became_idle;
  std::deque<std::function<void()>> queue;
  std::size_t idle = 0;  // threads that wait for something to run
  bool stopping = false;
  std::vector<std::thread> threads;

  void start_one() {
    threads.push_back(start_thread("merak-callbacks", [this] { run(); }));
    ++idle;
  }

  void try_to_start_another() {
    try {
      start_one();
    } catch (const std::system_error&) {  // no more threads to be had: those that are there will come to it
    }
  }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      std::function<void()> callback = std::move(queue.front());
      queue.pop_front();
      --idle;
      lock.unlock();
      callback();
      callback = nullptr;  // what it holds is released without the lock
      lock.lock();
      ++idle;
      if (is_idle()) became_idle.notify_all();
    }
  }

  bool is_idle() const { return queue.empty() && idle == threads.size(); }
};

CallbackThreads::CallbackThreads(int threads) : state_(std::make_unique<State>()) {
  std::lock_guard lock(state_->mutex);
  for (int i = 0; i < threads; ++i) state_->start_one();
}

CallbackThreads::~CallbackThreads() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

void CallbackThreads::post(std::function<void()> callback) {
  {
    std::lock_guard lock(state_->mutex);
    state_->queue.push_back(std::move(callback));
    if (state_->queue.size() > state_->idle && state_->threads.size() < kMost && !state_->stopping)
      state_->try_to_start_another();
  }
  state_->changed.notify_one();
}

bool CallbackThreads::wait_until_idle(std::chrono::steady_clock::time_point until) {
  std::unique_lock lock(state_->mutex);
  return state_->became_idle.wait_until(lock, until, [this] { return state_->is_idle(); });
}

bool Operation::wait_until(Clock::time_point until) {
  if (done()) return true;
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, until, [this] { return done(); });
}

void Operation::on_done(std::function<void()> callback) {
  {
    std::lock_guard lock(mutex_);
    if (!done()) {
      waiting_.push_back(std::move(callback));
      return;
    }
  }
  callbacks_.post(std::move(callback));
}

void Operation::finish(std::exception_ptr error) {
  std::vector<std::function<void()>> callbacks;
  {
    std::lock_guard lock(mutex_);
    error_ = std::move(error);
    done_.store(true, std::memory_order_release);
    callbacks.swap(waiting_);
  }
  changed_.notify_all();
  for (auto& callback : callbacks) callbacks_.post(std::move(callback));
}

}  // namespace merak
