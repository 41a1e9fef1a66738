#include "transport/faulty_transport.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <vector>

#include "transport/in_process_transport.h"
#include "transport/tcp_helpers.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

// Three ranks in memory, on links that suffer faults.
struct World {
  explicit World(Faults faults, int size = 3) : injector(faults), fabric(size, 1000), reports(size) {
    for (int rank = 0; rank < size; ++rank) {
      transports.push_back(injector.wrap(rank, fabric.transport(rank)));
      transports.back()->start(reports[rank].on_link());
    }
  }
  std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> link(int a, int b) {
    transports[a]->connect(b);
    return {reports[a].link(b), reports[b].link(a)};
  }

  FaultInjector injector;
  InProcessFabric fabric;
  std::vector<Reports> reports;
  std::vector<std::unique_ptr<Transport>> transports;
};

// Sends `text` over the link and returns the sizes of the reads that it took, nothing included.
std::vector<std::size_t> sizes_of_reads(World& world, const std::string& text) {
  auto [a, b] = world.link(0, 1);
  std::vector<std::size_t> sizes;
  std::string got;
  for (std::size_t written = 0; got.size() < text.size();) {
    written += write_some(*a, std::string_view(text).substr(written));
    const std::string part = read_some(*b, 100);
    sizes.push_back(part.size());
    got += part;
  }
  EXPECT_EQ(got, text);
  return sizes;
}

TEST(Faults, ShortReadsAndWritesLoseNothingAndFollowFromTheSeed) {
  const std::string text = pattern(5000);
  auto sizes = [&](std::uint64_t seed) {
    World world({.seed = seed, .short_io = 0.7});
    return sizes_of_reads(world, text);
  };
  EXPECT_EQ(sizes(1), sizes(1));
  EXPECT_NE(sizes(1), sizes(2));
}

TEST(Faults, HeldReadsFindNothingForAWhile) {
  World world({.seed = 3, .hold_reads = 3});
  const auto sizes = sizes_of_reads(world, pattern(5000));
  EXPECT_GT(std::count(sizes.begin(), sizes.end(), 0u), 10);
}

TEST(Faults, WhoFindsNothingAlthoughThereIsSomethingIsWoken) {
  World world({.seed = 3, .short_io = 0.5, .hold_reads = 3});
  auto [a, b] = world.link(0, 1);
  write_all(*a, pattern(900));
  bool woken = false;
  b->set_wake([&] { woken = true; });
  for (std::size_t got = 0; got < 900;) {
    woken = false;
    const std::size_t part = read_some(*b, 100).size();
    got += part;
    if (part == 0) {
      EXPECT_TRUE(woken);
    }
  }
}

TEST(Faults, LatencyDelaysButKeepsTheOrder) {
  World world({.seed = 5, .latency = 20ms, .jitter = 10ms});
  auto [a, b] = world.link(0, 1);
  std::atomic<int> woken{0};
  b->set_wake([&] { ++woken; });
  const auto sent = Clock::now();
  write_all(*a, "first ");
  write_all(*a, "second");
  EXPECT_TRUE(a->drained());
  const std::string first = read_exactly(*b, 1);
  EXPECT_GE(Clock::now() - sent, 20ms);
  EXPECT_EQ(first + read_exactly(*b, 11), "first second");
  eventually([&] { return woken >= 4; });  // once when each was written, once when each arrived
}

TEST(Faults, ACutLetsSoManyBytesThrough) {
  World world({.cut = Faults::Cut{.a = 1, .b = 0, .bytes = 7}});
  auto [a, b] = world.link(0, 1);
  auto [c, d] = world.link(0, 2);
  EXPECT_EQ(write_some(*b, "abc"), 3u);
  EXPECT_EQ(write_some(*a, "defghij"), 4u);
  EXPECT_THROW(write_some(*a, "hij"), LinkClosed);
  EXPECT_EQ(read_exactly(*b, 4), "defg");
  EXPECT_EQ(end_of(*b), "killed by an injected fault");
  EXPECT_THROW(write_some(*b, "x"), LinkClosed);
  write_all(*c, "others live");
  EXPECT_EQ(read_exactly(*d, 11), "others live");
}

TEST(Faults, AKilledRankLosesAllItsLinks) {
  World world({});
  auto [a, b] = world.link(0, 1);
  auto [c, d] = world.link(1, 2);
  std::atomic<int> woken{0};
  for (Link* link : {a.get(), b.get(), c.get(), d.get()}) link->set_wake([&] { ++woken; });
  write_all(*b, "last words");
  woken = 0;
  world.injector.kill(1);
  EXPECT_EQ(woken, 4);
  EXPECT_EQ(read_exactly(*a, 10), "last words");
  for (Link* link : {a.get(), b.get(), c.get(), d.get()}) {
    EXPECT_THROW(read_some(*link, 1), LinkClosed);
    EXPECT_THROW(write_some(*link, "x"), LinkClosed);
  }
}

TEST(Faults, AKilledRanksLaterLinksAreDead) {
  World world({});
  world.injector.kill(1);
  auto [a, b] = world.link(0, 1);
  EXPECT_THROW(write_some(*a, "x"), LinkClosed);
  EXPECT_THROW(read_some(*b, 1), LinkClosed);
  auto [c, d] = world.link(0, 2);
  write_all(*c, "alive");
  EXPECT_EQ(read_exactly(*d, 5), "alive");
}

TEST(Faults, CorruptionInvertsOneBit) {
  World world({.corruption = Faults::Corruption{.from = 0, .to = 1, .offset = 4}});
  auto [a, b] = world.link(0, 1);
  write_all(*a, "000000");
  EXPECT_EQ(read_exactly(*b, 3), "000");
  EXPECT_EQ(read_exactly(*b, 3), "010");
  write_all(*b, "000000");
  EXPECT_EQ(read_exactly(*a, 6), "000000");
}

// Over TCP ------------------------------------------------------------------------------------------------------------

struct TcpWorld {
  explicit TcpWorld(Faults faults) : injector(faults) {
    const Token token = random_token();
    for (int rank = 0; rank < 2; ++rank) {
      transports[rank] =
          injector.wrap(rank, std::make_unique<TcpTransport>(rank, 2, token, meeting.of(rank), TcpOptions{}));
      transports[rank]->start(reports[rank].on_link());
    }
    transports[1]->connect(0);
  }
  ~TcpWorld() {
    for (auto& transport : transports) transport->close();
  }
  FaultInjector injector;
  Meeting meeting;
  Reports reports[2];
  std::unique_ptr<Transport> transports[2];
};

TEST(Faults, OverTcpShortReadsAndWritesAlwaysMoveSomething) {
  TcpWorld world({.seed = 1, .short_io = 0.9});
  const auto a = world.reports[0].link(1), b = world.reports[1].link(0);
  for (int i = 0; i < 100; ++i) EXPECT_GT(write_some(*a, pattern(50)), 0u);
}

TEST(Faults, OverTcpACutShowsAtBothEnds) {
  TcpWorld world({.cut = Faults::Cut{.a = 0, .b = 1, .bytes = 5}});
  const auto a = world.reports[0].link(1), b = world.reports[1].link(0);
  EXPECT_EQ(write_some(*a, "abcdefg"), 5u);
  EXPECT_EQ(read_exactly(*b, 5), "abcde");
  EXPECT_THROW(write_some(*a, "fg"), LinkClosed);
  end_of(*a);
  end_of(*b);
}

TEST(Faults, OverTcpAKillShowsAtBothEnds) {
  TcpWorld world({});
  const auto a = world.reports[0].link(1), b = world.reports[1].link(0);
  write_all(*a, "x");
  world.injector.kill(1);
  end_of(*a);
  EXPECT_THROW(write_some(*b, "x"), LinkClosed);
}

}  // namespace
}  // namespace merak
