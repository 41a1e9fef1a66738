#include "transport/in_process_transport.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <vector>

#include "transport/byte_queue.h"
#include "transport/link_helpers.h"

namespace merak {
namespace {

std::size_t push(ByteQueue& queue, std::string text) {
  const iovec piece = {text.data(), text.size()};
  return queue.push({&piece, 1});
}

std::string pop(ByteQueue& queue, std::size_t most) {
  std::string text(most, '\0');
  const iovec piece = {text.data(), text.size()};
  text.resize(queue.pop({&piece, 1}));
  return text;
}

TEST(ByteQueue, WrapsAndStopsWhenFull) {
  ByteQueue queue(5);
  EXPECT_EQ(push(queue, "abc"), 3u);
  EXPECT_EQ(pop(queue, 2), "ab");
  EXPECT_EQ(push(queue, "defgh"), 4u);  // cdefg
  EXPECT_EQ(push(queue, "x"), 0u);
  EXPECT_EQ(pop(queue, 10), "cdefg");
  EXPECT_EQ(pop(queue, 1), "");
}

TEST(ByteQueue, TakesAndGivesPieces) {
  ByteQueue queue(8);
  std::string a = "one", b = "", c = "two";
  const iovec from[] = {{a.data(), 3}, {b.data(), 0}, {c.data(), 3}};
  EXPECT_EQ(queue.push(from), 6u);
  std::string left(2, '.'), right(9, '.');
  const iovec to[] = {{left.data(), 2}, {right.data(), 9}};
  EXPECT_EQ(queue.pop(to), 6u);
  EXPECT_EQ(left + right, "onetwo.....");
}

TEST(InProcessLink, CarriesBothWaysAndStopsWhenFull) {
  auto [a, b] = in_process_link(4);
  EXPECT_EQ(write_some(*a, "abcdef"), 4u);
  EXPECT_EQ(write_some(*a, "ef"), 0u);
  EXPECT_EQ(write_some(*b, "xy"), 2u);
  EXPECT_EQ(read_some(*b, 3), "abc");
  EXPECT_EQ(write_some(*a, "ef"), 2u);
  EXPECT_EQ(read_exactly(*b, 3), "def");
  EXPECT_EQ(read_exactly(*a, 2), "xy");
  EXPECT_EQ(read_some(*a, 2), "");
  EXPECT_TRUE(a->drained());
  EXPECT_EQ(a->descriptor(), -1);
}

TEST(InProcessLink, EndsOnlyAfterEverythingWasRead) {
  auto [a, b] = in_process_link();
  write_all(*a, "last words");
  a->finish_writing();
  EXPECT_EQ(read_exactly(*b, 10), "last words");
  EXPECT_EQ(end_of(*b), "closed by the peer");
  write_all(*b, "heard");  // the other way is still open
  EXPECT_EQ(read_exactly(*a, 5), "heard");
}

TEST(InProcessLink, ClosingShowsAtTheOtherEnd) {
  auto [a, b] = in_process_link();
  write_all(*a, "bye");
  a.reset();
  EXPECT_THROW(write_some(*b, "x"), LinkClosed);
  EXPECT_EQ(read_exactly(*b, 3), "bye");
  EXPECT_EQ(end_of(*b), "closed by the peer");
}

TEST(InProcessLink, WakesTheOtherEnd) {
  auto [a, b] = in_process_link(4);
  int woken = 0;
  b->set_wake([&] { ++woken; });
  write_some(*a, "abcdef");
  EXPECT_EQ(woken, 1);
  write_some(*a, "ef");  // full: nothing moved
  EXPECT_EQ(woken, 1);
  int space = 0;
  a->set_wake([&] { ++space; });
  read_some(*b, 1);
  EXPECT_EQ(space, 1);
  a->finish_writing();
  EXPECT_EQ(woken, 2);
  a.reset();
  EXPECT_EQ(woken, 3);
}

TEST(InProcessFabric, LinksTwoRanksOnceWhicheverAsks) {
  InProcessFabric fabric(3);
  std::vector<std::unique_ptr<Transport>> transports;
  std::vector<Reports> reports(3);
  for (int rank = 0; rank < 3; ++rank) transports.push_back(fabric.transport(rank));
  transports[0]->start(reports[0].on_link());
  transports[0]->connect(1);
  EXPECT_EQ(reports[0].count(), 0u);  // rank 1 has not started
  transports[1]->start(reports[1].on_link());
  transports[1]->connect(0);
  transports[0]->connect(1);
  const auto a = reports[0].link(1), b = reports[1].link(0);
  write_all(*a, "hello");
  EXPECT_EQ(read_exactly(*b, 5), "hello");
  EXPECT_EQ(reports[0].count(), 1u);
  EXPECT_THROW(transports[0]->connect(0), std::invalid_argument);
  EXPECT_THROW(transports[0]->connect(3), std::invalid_argument);
}

TEST(InProcessFabric, SaysThatARankHasLeft) {
  InProcessFabric fabric(3);
  auto a = fabric.transport(0), b = fabric.transport(1);
  Reports reports;
  a->start(reports.on_link());
  a->connect(1);
  b.reset();
  EXPECT_EQ(reports.error(1), "rank 1 has left the group");
  fabric.transport(2)->close();
  a->connect(2);
  EXPECT_EQ(reports.error(2), "rank 2 has left the group");
}

TEST(InProcessFabric, ReportsNothingAfterClosing) {
  InProcessFabric fabric(2);
  auto a = fabric.transport(0), b = fabric.transport(1);
  Reports reports, others;
  a->start(reports.on_link());
  a->connect(1);
  a->close();
  b->start(others.on_link());
  EXPECT_EQ(reports.count(), 0u);
  EXPECT_EQ(others.error(0), "rank 0 has left the group");
}

TEST(InProcessFabric, RanksMayBeThreads) {
  constexpr int kSize = 4;
  InProcessFabric fabric(kSize, 1000);
  const std::string sent = pattern(100'000);
  std::vector<std::thread> ranks;
  std::atomic<int> right{0};
  for (int rank = 0; rank < kSize; ++rank)
    ranks.emplace_back([&, rank] {
      const auto transport = fabric.transport(rank);
      Reports reports;
      transport->start(reports.on_link());
      const int next = (rank + 1) % kSize, previous = (rank + kSize - 1) % kSize;
      transport->connect(next);
      auto to = reports.link(next), from = reports.link(previous);
      std::thread writer([&] { write_all(*to, sent); });
      if (read_exactly(*from, sent.size()) == sent) ++right;
      writer.join();
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(right, kSize);
}

}  // namespace
}  // namespace merak
