#pragma once
// Sees to it that what was started on a device ends, in time and well. Nobody else does: users do not wait for a
// device, they put more work behind it.

#include <chrono>
#include <exception>
#include <functional>
#include <list>
#include <mutex>

#include "transport/occasional_thread.h"

namespace merak {

// Thread-safe.
class DeviceWatch {
 public:
  struct Task {
    std::function<bool()> done;  // asked now and then; throws when it has failed, or must be given up
    std::chrono::steady_clock::time_point deadline;
    // Called once, on the watch's own thread: with null when it is done, with what done() threw, or with `late`.
    std::function<void(std::exception_ptr error)> end;
    std::exception_ptr late;
  };

  DeviceWatch() : thread_("merak-device", [this] { run(); }) {}
  DeviceWatch(const DeviceWatch&) = delete;
  ~DeviceWatch() { thread_.join(); }  // waits for all tasks to end

  // The watch of this process; never destroyed (a forked child gets a fresh one).
  static DeviceWatch& process();

  void add(Task task);

 private:
  void run();

  std::mutex mutex_;
  std::list<Task> tasks_;
  OccasionalThread thread_;
};

}  // namespace merak
