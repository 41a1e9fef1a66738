#pragma once
// What a forked child must not inherit.
//
// A data-loader worker is forked from a rank and has copies of all its objects: of those whose threads do not exist in
// the child, and of locks that other threads held at that moment and that nobody will ever release. To use or destroy
// them there would hang. A fork *generation* tells parent and child apart; what belongs to the parent is left alone.
// (Descriptors are closed in the child: see descriptor.h.)

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace merak {

// Another number in a forked child than in its parent; the same for the whole life of a process.
std::uint64_t fork_generation();

struct DeleteInMakersProcess {
  std::uint64_t generation = fork_generation();

  template <class T>
  void operator()(T* object) const {
    if (generation == fork_generation()) delete object;
  }
};

// Owns an object with threads or locks: destroyed with its owner, but never in a forked child.
template <class T>
using ProcessPtr = std::unique_ptr<T, DeleteInMakersProcess>;

template <class T, class... Arguments>
ProcessPtr<T> make_for_process(Arguments&&... arguments) {
  return ProcessPtr<T>(new T(std::forward<Arguments>(arguments)...));
}

// A global of which a forked child gets a fresh one. Never destroyed, so that it is there while a process ends.
// Thread-safe.
template <class T>
class PerProcess {
 public:
  T& get() {
    const std::uint64_t generation = fork_generation();
    Slot* current = slot_.load(std::memory_order_acquire);
    if (current != nullptr && current->generation == generation) return current->value;
    auto fresh = std::make_unique<Slot>(generation);
    // Of two threads that come here at once the first one's wins.
    if (slot_.compare_exchange_strong(current, fresh.get(), std::memory_order_acq_rel)) return fresh.release()->value;
    return current->value;
  }

 private:
  struct Slot {
    explicit Slot(std::uint64_t g) : generation(g) {}
    const std::uint64_t generation;
    T value{};
  };
  std::atomic<Slot*> slot_{nullptr};
};

}  // namespace merak
