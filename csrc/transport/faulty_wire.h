#pragma once
// What the two ends of a faulty link share: whether it is dead, how much was written, and what is still on its way.

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>

#include "transport/bell.h"
#include "transport/wake_timer.h"

namespace merak {

inline constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

// Thread-safe. Its ends are 0, of the lower rank, and 1.
class FaultyWire {
 public:
  // `lifetime`: bytes that can be written before the wire dies. `timer`: for a wire with latency, else null.
  FaultyWire(std::uint64_t lifetime, std::shared_ptr<WakeTimer> timer)
      : lifetime_(lifetime), timer_(std::move(timer)) {}

  void attach(int end, int descriptor);  // of the link below; -1 for one in memory
  void detach(int end);                  // before that link is destroyed

  void set_wake(int end, std::function<void()> wake) { bells_[end]->set(std::move(wake)); }
  void wake(int end) { bells_[end]->ring(); }

  // Both ends see their link end.
  void die();
  bool dead() const;

  // Bytes that may still be written before the wire dies.
  std::uint64_t left() const;
  // That an end wrote so many bytes, which take `delay` to arrive.
  void wrote(int end, std::size_t bytes, Clock::duration delay);

  // Bytes that have arrived at an end and are not read yet; kNoLimit for a wire without latency.
  std::uint64_t readable(int end);
  void did_read(int end, std::size_t bytes);

 private:
  struct OnTheWay {
    std::uint64_t until;  // up to this byte of the stream
    Clock::time_point arrives;
  };
  struct Lane {  // towards one end
    std::deque<OnTheWay> on_the_way;
    std::uint64_t written = 0, arrived = 0, read = 0;
  };

  const std::uint64_t lifetime_;
  const std::shared_ptr<WakeTimer> timer_;
  mutable std::mutex mutex_;
  bool dead_ = false;
  std::array<int, 2> descriptors_ = {-1, -1};
  std::array<Lane, 2> lanes_;
  const std::array<std::shared_ptr<Bell>, 2> bells_ = {std::make_shared<Bell>(), std::make_shared<Bell>()};
};

}  // namespace merak
