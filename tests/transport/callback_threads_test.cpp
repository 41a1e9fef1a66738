#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "transport/operation.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

// What callbacks hold is released, too.
TEST(CallbackThreads, AreIdleWhenNothingRunsAndNothingIsHeld) {
  CallbackThreads threads(2);
  const auto held = std::make_shared<int>(1);
  for (int i = 0; i < 20; ++i) threads.post([held] { std::this_thread::sleep_for(1ms); });
  EXPECT_TRUE(threads.wait_until_idle(Clock::now() + 60s));
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_TRUE(threads.wait_until_idle(Clock::now()));
}

TEST(CallbackThreads, AreNotIdleWhileACallbackRuns) {
  std::atomic<bool> may_end{false};
  CallbackThreads threads(2);
  threads.post([&] {
    while (!may_end) std::this_thread::sleep_for(1ms);
  });
  EXPECT_FALSE(threads.wait_until_idle(Clock::now() + 20ms));
  may_end = true;
  EXPECT_TRUE(threads.wait_until_idle(Clock::now() + 60s));
}

}  // namespace
}  // namespace merak
