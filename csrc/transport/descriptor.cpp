#include "transport/descriptor.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <set>
#include <system_error>

#include "transport/errors.h"
#include "transport/fork.h"

namespace merak {
namespace {

// All open descriptors of this process. The lock is held while the process forks: the child finds the set whole, and
// no descriptor lies between being opened and being listed.
struct Registry {
  std::mutex mutex;
  std::set<int> open;
};

Registry& registry() {
  static Registry& instance = *new Registry;  // never destroyed: descriptors may outlive static objects
  static const int registered = pthread_atfork([] { registry().mutex.lock(); }, [] { registry().mutex.unlock(); },
                                               [] {
                                                 for (int number : registry().open) ::close(number);
                                                 registry().open.clear();
                                                 registry().mutex.unlock();
                                               });
  (void)registered;
  return instance;
}

}  // namespace

Descriptor Descriptor::open(const std::function<int()>& make) {
  Descriptor descriptor;
  descriptor.generation_ = fork_generation();
  std::lock_guard lock(registry().mutex);
  const int number = make();
  if (number < 0) return descriptor;
  registry().open.insert(number);
  descriptor.number_ = number;
  return descriptor;
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this == &other) return *this;
  close();
  number_ = std::exchange(other.number_, -1);
  generation_ = other.generation_;
  return *this;
}

void Descriptor::close() {
  const int number = get();  // in a forked child the number may by now be another file's
  number_ = -1;
  if (number < 0) return;
  std::lock_guard lock(registry().mutex);
  registry().open.erase(number);
  ::close(number);
}

int Descriptor::get() const { return generation_ == fork_generation() ? number_ : -1; }

Signal::Signal() : counter_(Descriptor::open([] { return ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); })) {
  if (!counter_) throw NetworkError("cannot make an eventfd: " + errno_text(errno));
}

void Signal::set() { ::eventfd_write(counter_.get(), 1); }

void Signal::clear() {
  eventfd_t count;
  ::eventfd_read(counter_.get(), &count);
}

std::string errno_text(int error) { return std::generic_category().message(error); }

}  // namespace merak
