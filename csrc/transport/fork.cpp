#include "transport/fork.h"

#include <pthread.h>

namespace merak {
namespace {

std::atomic<std::uint64_t> generation{1};

}  // namespace

std::uint64_t fork_generation() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1); });
  (void)registered;
  return generation.load(std::memory_order_relaxed);
}

}  // namespace merak
