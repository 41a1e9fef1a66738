#pragma once
// Calls functions at given times, on one thread.

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "transport/operation.h"

namespace merak {

// Thread-safe.
class WakeTimer {
 public:
  WakeTimer();
  ~WakeTimer();  // forgets what is not due yet

  void at(Clock::time_point due, std::function<void()> wake);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::multimap<Clock::time_point, std::function<void()>> waiting_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace merak
