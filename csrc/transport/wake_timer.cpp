#include "transport/wake_timer.h"

#include <utility>

#include "transport/thread.h"

namespace merak {

WakeTimer::WakeTimer() : thread_(start_thread("merak-timer", [this] { run(); })) {}

WakeTimer::~WakeTimer() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WakeTimer::at(Clock::time_point due, std::function<void()> wake) {
  {
    std::lock_guard lock(mutex_);
    waiting_.emplace(due, std::move(wake));
  }
  changed_.notify_all();
}

void WakeTimer::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (waiting_.empty()) {
      changed_.wait(lock);
    } else if (waiting_.begin()->first > Clock::now()) {
      changed_.wait_until(lock, Clock::time_point(waiting_.begin()->first));
    } else {
      const auto due = waiting_.extract(waiting_.begin());
      lock.unlock();
      due.mapped()();
      lock.lock();
    }
  }
}

}  // namespace merak
