#pragma once
// A file descriptor with one owner, closed in a forked child.
//
// A connection stays open as long as any process holds a descriptor of it. Were a data-loader worker to keep copies of
// its parent's, then the parent's death would not show at the parent's peers while the worker lives. So the child
// closes them right after the fork (without a shutdown, which would end the parent's connections).

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace merak {

class Descriptor {
 public:
  Descriptor() = default;

  // Owns what make() returns: a descriptor, or -1 with errno set, which is then left as it is. make() runs while no
  // fork can happen, so it must not block.
  static Descriptor open(const std::function<int()>& make);

  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)), generation_(other.generation_) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor() { close(); }

  void close();

  // -1 when there is none, or in a forked child.
  int get() const;
  explicit operator bool() const { return get() >= 0; }

 private:
  int number_ = -1;
  std::uint64_t generation_ = 0;  // of the process that opened it
};

// An event counter (eventfd), to interrupt a poll.
class Signal {
 public:
  Signal();
  void set();  // from any thread
  void clear();
  int descriptor() const { return counter_.get(); }

 private:
  Descriptor counter_;
};

// What the kernel means by an errno, for people.
std::string errno_text(int error);

}  // namespace merak
