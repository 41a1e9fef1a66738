#include "transport/device_watch.h"

#include <optional>
#include <thread>
#include <utility>

#include "transport/fork.h"

namespace merak {
namespace {

constexpr auto kBetweenLooks = std::chrono::milliseconds(10);

// Empty while it goes on; else how it ended.
std::optional<std::exception_ptr> outcome_of(const DeviceWatch::Task& task) {
  try {
    if (task.done()) return nullptr;
    return std::chrono::steady_clock::now() < task.deadline ? std::nullopt : std::optional(task.late);
  } catch (...) {
    return std::current_exception();
  }
}

bool has_ended(const DeviceWatch::Task& task) {
  const std::optional<std::exception_ptr> outcome = outcome_of(task);
  if (outcome) task.end(*outcome);
  return outcome.has_value();
}

}  // namespace

DeviceWatch& DeviceWatch::process() {
  static auto& watches = *new PerProcess<DeviceWatch>;
  return watches.get();
}

void DeviceWatch::add(Task task) {
  std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  thread_.wake();
}

// Tasks are looked at without the lock: their owners do as they like, and may add more.
void DeviceWatch::run() {
  for (;;) {
    std::list<Task> tasks;
    {
      std::lock_guard lock(mutex_);
      if (tasks_.empty()) return thread_.rest();
      tasks.swap(tasks_);
    }
    tasks.remove_if(has_ended);
    {
      std::lock_guard lock(mutex_);
      tasks_.splice(tasks_.begin(), tasks);
    }
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

}  // namespace merak
