#include "backend/store_client.h"

#include <algorithm>
#include <thread>

#include "backend/interruptible_wait.h"

namespace merak {
namespace {

constexpr auto kFirstPause = std::chrono::microseconds(500);
constexpr auto kLongestPause = std::chrono::milliseconds(50);

}  // namespace

std::optional<std::vector<std::string>> StoreClient::wait_for(const std::vector<std::string>& keys,
                                                              Clock::time_point until,
                                                              const std::function<void()>& check) {
  Clock::duration pause = kFirstPause;
  const bool all_there = wait_interruptibly(
      [&](Clock::time_point slice_end) {
        for (;;) {
          check();
          if (has(keys)) return true;
          if (Clock::now() >= slice_end) return false;
          std::this_thread::sleep_until(std::min(slice_end, Clock::now() + pause));
          pause = std::min<Clock::duration>(2 * pause, kLongestPause);
        }
      },
      until);
  if (!all_there) return std::nullopt;
  std::vector<std::string> values;
  for (const std::string& key : keys) values.push_back(get(key));
  return values;
}

}  // namespace merak
