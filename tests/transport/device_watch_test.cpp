// How what runs on a device is found to have ended.

#include "transport/device_watch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>

namespace merak {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// How a task ended: "done", or the error's text.
struct Ending {
  std::promise<std::string> text;

  void operator()(std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
      text.set_value("done");
    } catch (const std::exception& failure) {
      text.set_value(failure.what());
    }
  }
};

std::string ending_of(DeviceWatch& watch, std::function<bool()> done, Clock::duration time) {
  auto ending = std::make_shared<Ending>();
  auto text = ending->text.get_future();
  watch.add({std::move(done), Clock::now() + time, [ending](std::exception_ptr error) { (*ending)(error); },
             std::make_exception_ptr(std::runtime_error("late"))});
  return text.wait_for(30s) == std::future_status::ready ? text.get() : "nothing";
}

TEST(DeviceWatch, TellsHowATaskEnds) {
  DeviceWatch watch;
  int asked = 0;
  EXPECT_EQ(ending_of(
                watch, [&] { return ++asked == 3; }, 30s),
            "done");
  EXPECT_EQ(asked, 3);
  EXPECT_EQ(ending_of(
                watch, [] { return false; }, 30ms),
            "late");
  EXPECT_EQ(ending_of(
                watch, []() -> bool { throw std::runtime_error("broken"); }, 30s),
            "broken");
  EXPECT_EQ(ending_of(
                watch, [] { return true; }, -1s),
            "done")
      << "what is done is not late";
}

TEST(DeviceWatch, WatchesManyAtOnceAndEndsAfterThem) {
  std::atomic<int> ended{0}, added_later{0};
  {
    DeviceWatch watch;
    for (int i = 0; i < 50; ++i) {
      auto asked = std::make_shared<int>(0);
      watch.add(
          {[asked, i] { return ++*asked > i % 4; },
           Clock::now() + 30s,
           [&](std::exception_ptr) {
             if (++ended == 25)
               watch.add({[] { return true; }, Clock::now() + 30s, [&](std::exception_ptr) { ++added_later; }, {}});
           },
           {}});
    }
  }
  EXPECT_EQ(ended, 50);
  EXPECT_EQ(added_later, 1);
}

}  // namespace
}  // namespace merak
