#include "backend/store_client.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <thread>

#include "backend/interruptible_wait.h"

namespace merak {
namespace {

constexpr auto kFirstPause = std::chrono::microseconds(500);
constexpr auto kLongestPause = std::chrono::milliseconds(50);

std::string text(const std::vector<std::uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

}  // namespace

c10::intrusive_ptr<c10d::Store> StoreClient::client() {
  std::lock_guard lock(mutex_);
  if (own_) return own_;
  try {
    own_ = users_->clone();
  } catch (const c10::DistError&) {
    throw;
  } catch (const std::exception&) {
    own_ = users_;  // a store that cannot be cloned, such as one written in Python
  }
  return own_;
}

void StoreClient::release() {
  std::lock_guard lock(mutex_);
  own_.reset();
}

void StoreClient::set(const std::string& key, const std::string& value) { client()->set(key, value); }

void StoreClient::set_once(const std::string& key, const std::string& value) { users_->compareSet(key, "", value); }

std::optional<std::string> StoreClient::look_up(const std::string& key) {
  const auto store = client();
  if (!store->check({key})) return std::nullopt;
  return text(store->get(key));
}

std::optional<std::vector<std::string>> StoreClient::wait_for(const std::vector<std::string>& keys,
                                                              Clock::time_point until,
                                                              const std::function<void()>& check) {
  const auto store = client();
  Clock::duration pause = kFirstPause;
  const bool all_there = wait_interruptibly(
      [&](Clock::time_point slice_end) {
        for (;;) {
          check();
          if (store->check(keys)) return true;
          if (Clock::now() >= slice_end) return false;
          std::this_thread::sleep_until(std::min(slice_end, Clock::now() + pause));
          pause = std::min<Clock::duration>(2 * pause, kLongestPause);
        }
      },
      until);
  if (!all_there) return std::nullopt;
  std::vector<std::string> values;
  for (const std::string& key : keys) values.push_back(text(store->get(key)));
  return values;
}

}  // namespace merak
