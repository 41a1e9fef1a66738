#pragma once
// A wake function (see Link::set_wake) that other threads call and its owner may take away.

#include <functional>
#include <mutex>
#include <utility>

namespace merak {

// Thread-safe.
class Bell {
 public:
  // After set({}) has returned, the function before runs no more.
  void set(std::function<void()> wake) {
    std::lock_guard lock(mutex_);
    wake_ = std::move(wake);
  }
  void ring() {
    std::lock_guard lock(mutex_);
    if (wake_) wake_();
  }

 private:
  std::mutex mutex_;
  std::function<void()> wake_;
};

}  // namespace merak
