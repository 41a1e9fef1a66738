// The bodies of kernels and what launches them, on a CPU.

#include "transport/for_each.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "collectives/half.h"
#include "transport/atomic_add.h"
#include "transport/element_wise.h"

namespace merak {
namespace {

struct CountVisits {
  std::atomic<int>* visits;
  MERAK_HD void operator()(std::size_t i) const { ++visits[i]; }
};

TEST(ForEach, VisitsEveryIndexOnce) {
  for (int threads : {0, 1, 2, 3, 8})
    for (std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{7}, kIndicesPerThread - 1,
                              3 * kIndicesPerThread + 5, 9 * kIndicesPerThread}) {
      const auto visits = std::make_unique<std::atomic<int>[]>(count);
      for_each(OnCpu{threads}, count, CountVisits{visits.get()});
      for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(visits[i], 1) << i << " of " << count;
    }
}

struct ThrowAt {
  std::size_t index;
  void operator()(std::size_t i) const {
    if (i == index) throw std::runtime_error("body");
  }
};

TEST(ForEach, ThrowsWhatABodyThrows) {
  const std::size_t count = 4 * kIndicesPerThread;
  for (std::size_t index : {std::size_t{0}, count / 2, count - 1})
    EXPECT_THROW(for_each(OnCpu{4}, count, ThrowAt{index}), std::runtime_error);
}

template <class T>
struct AtomicAdd {
  T* sums;
  std::size_t count;
  MERAK_HD void operator()(std::size_t i) const { atomic_add(sums + i % count, T(static_cast<float>(i % 3))); }
};

// Small whole numbers, whose sums are exact in every type and order.
template <class T>
void expect_all_added(std::size_t indices) {
  constexpr std::size_t kSums = 5;
  std::vector<T> sums(kSums, T(0.0f));
  std::vector<double> expected(kSums);
  for (std::size_t i = 0; i < indices; ++i) expected[i % kSums] += static_cast<double>(i % 3);
  for_each(OnCpu{4}, indices, AtomicAdd<T>{sums.data(), kSums});
  for (std::size_t i = 0; i < kSums; ++i) EXPECT_EQ(static_cast<float>(sums[i]), static_cast<float>(expected[i]));
}

TEST(AtomicAdd, LosesNothing) {
  const std::size_t many = 4 * kIndicesPerThread;
  expect_all_added<std::int32_t>(many);
  expect_all_added<std::uint32_t>(many);
  expect_all_added<std::int64_t>(many);
  expect_all_added<float>(many);
  expect_all_added<double>(many);
  expect_all_added<Half>(1500);      // whole up to 2048
  expect_all_added<BFloat16>(1000);  // whole up to 256: 200 sums of 1 on average
}

TEST(AtomicAdd, HalvesAddUnderContention) {
  std::vector<Half> sums(2, Half(0.0f));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) atomic_add(&sums[i % 2], Half(1.0f));
    });
  for (std::thread& thread : threads) thread.join();
  for (Half sum : sums) EXPECT_EQ(static_cast<float>(sum), 1000.0f);
}

struct Twice {
  template <class T>
  MERAK_HD T operator()(T value) const {
    return static_cast<T>(value + value);
  }
};
struct Less {  // not symmetric
  template <class T>
  MERAK_HD T operator()(T a, T b) const {
    return static_cast<T>(a - b);
  }
};

// Arrays that begin and end anywhere relative to 16-byte boundaries, with sentinels around them.
template <class T>
void expect_each_element_once() {
  constexpr std::size_t kMost = 70, kAround = 16;
  const T sentinel = 99;
  for (std::size_t begin = 0; begin < 16 / sizeof(T) + 1; ++begin)
    for (std::size_t shift : {0, 1, 3})
      for (std::size_t count = 0; count < kMost; ++count) {
        alignas(16) T memory[kMost + 2 * kAround], operand[kMost + 2 * kAround];
        T *at = memory + begin, *from = operand + begin + shift;
        std::fill_n(memory, kMost + 2 * kAround, sentinel);
        for (std::size_t i = 0; i < count; ++i) at[i] = static_cast<T>(i), from[i] = static_cast<T>(2 * i);
        combine_each(OnCpu{}, at, from, count, Less());
        update_each(OnCpu{}, at, count, Twice());
        for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(at[i], static_cast<T>(-2 * static_cast<int>(i)));
        for (T* outside = memory; outside < at; ++outside) ASSERT_EQ(*outside, sentinel);
        for (T* outside = at + count; outside < memory + kMost + 2 * kAround; ++outside) ASSERT_EQ(*outside, sentinel);
      }
}

TEST(ElementWise, TakesEachElementOnceHoweverTheArraysLie) {
  expect_each_element_once<std::int8_t>();
  expect_each_element_once<std::int16_t>();
  expect_each_element_once<float>();
  expect_each_element_once<std::int64_t>();
}

TEST(ElementWise, TakesMostElementsByPacks) {
  alignas(16) float values[103] = {};
  EXPECT_EQ(packs_of(values, 103).count, 25u);
  EXPECT_EQ(packs_of(values, 103).head, 0u);
  EXPECT_EQ(packs_of(values + 1, 102).head, 3u);
  EXPECT_EQ(packs_of(values + 1, 102).count, 24u);
  EXPECT_EQ(packs_of(values + 1, 2).count, 0u);
  EXPECT_EQ(packs_of(reinterpret_cast<double*>(values + 1), 50).count, 0u) << "no element begins at a boundary";
}

}  // namespace
}  // namespace merak
