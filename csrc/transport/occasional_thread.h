#pragma once
// A thread that lives only while there is something for it to do.

#include <functional>
#include <thread>
#include <utility>

#include "transport/thread.h"

namespace merak {

// Its owner calls wake() and rest() under one mutex of the owner's.
class OccasionalThread {
 public:
  // `run` works until nothing is left, and calls rest() as the last thing that it does under the mutex.
  OccasionalThread(const char* name, std::function<void()> run) : name_(name), run_(std::move(run)) {}

  void wake() {
    if (awake_) return;
    join();  // it has nothing left to do but return
    thread_ = start_thread(name_, run_);
    awake_ = true;
  }
  void rest() { awake_ = false; }

  // Without the mutex, unless the thread rests.
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  const char* const name_;
  const std::function<void()> run_;
  bool awake_ = false;
  std::thread thread_;
};

}  // namespace merak
