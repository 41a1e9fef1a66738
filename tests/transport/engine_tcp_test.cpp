// Ranks as threads, each with an engine of its own, over TCP and in memory.

#include <gtest/gtest.h>

#include <barrier>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "transport/engine_helpers.h"
#include "transport/in_process_transport.h"
#include "transport/tcp_helpers.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

// Makes the transports of groups.
class Network {
 public:
  virtual ~Network() = default;
  virtual std::unique_ptr<Transport> transport(int rank) = 0;
};

struct TcpNetwork : Network {
  explicit TcpNetwork(int ranks) : size(ranks) {}
  std::unique_ptr<Transport> transport(int rank) override {
    return std::make_unique<TcpTransport>(rank, size, token, meeting.of(rank), TcpOptions{});
  }
  const int size;
  const Token token = random_token();
  Meeting meeting;
};

struct MemoryNetwork : Network {
  explicit MemoryNetwork(int ranks) : fabric(ranks) {}
  std::unique_ptr<Transport> transport(int rank) override { return fabric.transport(rank); }
  InProcessFabric fabric;
};

std::unique_ptr<Network> make_network(const std::string& kind, int size) {
  if (kind == "tcp") return std::make_unique<TcpNetwork>(size);
  return std::make_unique<MemoryNetwork>(size);
}

struct Rank {
  Rank(Network& network, int r, int n) : rank(r), size(n) { group = open(network, "main"); }
  std::shared_ptr<Group> open(Network& network, const std::string& name) {
    return engine.open({name, rank, size}, network.transport(rank));
  }
  std::shared_ptr<Operation> start(const Toy& toy, Values& values, int priority = 0, Clock::duration timeout = 60s) {
    return merak::start(engine, *group, toy, rank, size, values, priority, timeout);
  }
  void run(const Toy& toy, Values& values) { finish(*start(toy, values)); }
  void close() { engine.close(*group, 5s); }

  const int rank, size;
  Engine engine;
  std::shared_ptr<Group> group;
};

class EngineOver : public testing::TestWithParam<std::string> {
 protected:
  // Runs `body` on every rank, in threads. No rank leaves the group before all are through.
  void on_all(int size, const std::function<void(Rank&)>& body) {
    const auto network = make_network(GetParam(), size);
    std::barrier all_are_through(size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank)
      threads.emplace_back([&, rank] {
        Rank one(*network, rank, size);
        try {
          body(one);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "rank " << rank << ": " << error.what();
        }
        all_are_through.arrive_and_wait();
        one.close();
      });
    for (std::thread& thread : threads) thread.join();
  }
};

std::string name_of(const testing::TestParamInfo<std::string>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(Networks, EngineOver, testing::Values("tcp", "memory"), name_of);

TEST_P(EngineOver, EveryRankGetsTheRightValues) {
  for (int size : {1, 2, 3, 5})
    for (std::size_t count : {1, 1000, 40'000})
      on_all(size, [&](Rank& one) {
        for (const Toy& toy : {kChain, kSum, kCarousel}) {
          Values values = values_of(one.rank, count);
          one.run(toy, values);
          EXPECT_TRUE(values == toy.expected(one.rank, values_of_all(size, count))) << size << " " << count;
        }
      });
}

TEST_P(EngineOver, OperationsWithoutDataWork) {
  on_all(3, [](Rank& one) {
    Values none;
    for (const Toy& toy : {kChain, kSum, kCarousel}) one.run(toy, none);
  });
}

TEST_P(EngineOver, ManyMegabytes) {
  constexpr std::size_t kCount = 4 << 20;
  on_all(2, [](Rank& one) {
    Values values = values_of(one.rank, kCount);
    one.run(kSum, values);
    EXPECT_TRUE(values == kSum.expected(one.rank, values_of_all(2, kCount)));
  });
}

TEST_P(EngineOver, FiftyOperationsInFlightWithPriorities) {
  on_all(3, [](Rank& one) {
    std::vector<Values> values;
    std::vector<std::shared_ptr<Operation>> operations;
    for (int i = 0; i < 50; ++i) values.push_back(values_of(one.rank, 1 + 300 * i, i));
    for (int i = 0; i < 50; ++i) operations.push_back(one.start(i % 2 == 0 ? kSum : kCarousel, values[i], i % 5));
    for (int i = 0; i < 50; ++i) {
      finish(*operations[i]);
      EXPECT_TRUE(values[i] == (i % 2 == 0 ? kSum : kCarousel).expected(one.rank, values_of_all(3, 1 + 300 * i, i)));
    }
  });
}

TEST_P(EngineOver, GroupsMayBeUsedInDifferentOrders) {
  constexpr int kSize = 3, kGroups = 3;
  constexpr std::size_t kCount = 300'000;  // more than what fits on the links
  std::vector<std::unique_ptr<Network>> networks;
  for (int i = 0; i < kGroups; ++i) networks.push_back(make_network(GetParam(), kSize));
  on_all(kSize, [&](Rank& one) {
    std::vector<std::shared_ptr<Group>> groups;
    std::vector<Values> values;
    std::vector<std::shared_ptr<Operation>> operations(kGroups);
    for (int i = 0; i < kGroups; ++i) {
      groups.push_back(one.open(*networks[i], "group " + std::to_string(i)));
      values.push_back(values_of(one.rank, kCount, i));
    }
    for (int i = 0; i < kGroups; ++i) {
      const int which = (i + one.rank) % kGroups;
      operations[which] = start(one.engine, *groups[which], kSum, one.rank, kSize, values[which]);
      if (one.rank == 1) finish(*operations[which]);  // one rank even waits for each
    }
    for (int i = 0; i < kGroups; ++i) {
      finish(*operations[i]);
      EXPECT_TRUE(values[i] == kSum.expected(one.rank, values_of_all(kSize, kCount, i)));
      one.engine.close(*groups[i], 5s);
    }
  });
}

std::string error_text(const Operation& operation) {
  if (!operation.error()) return "no error";
  try {
    std::rethrow_exception(operation.error());
  } catch (const MismatchError& error) {
    return error.what();
  }
}

TEST_P(EngineOver, WhatAllRanksRefuseIsPassedOver) {
  on_all(3, [](Rank& one) {
    for (int times = 0; times < 3; ++times) {
      one.engine.refuse(*one.group, kSum.kind);
      Values values = values_of(one.rank, 1000);
      one.run(kSum, values);
      EXPECT_TRUE(values == kSum.expected(one.rank, values_of_all(3, 1000)));
    }
  });
}

// Whenever it comes: before the others start, while they wait, with small and large messages under way.
TEST_P(EngineOver, WhatOneRankRefusesFailsOnAllThatTakePart) {
  for (std::size_t count : {10, 1'000'000})
    for (int late : {0, 1})
      on_all(3, [&](Rank& one) {
        Values before = values_of(one.rank, 1), values = values_of(one.rank, count);
        one.run(kSum, before);
        if ((one.rank == 1) == (late == 1)) std::this_thread::sleep_for(100ms);
        if (one.rank == 1) {
          one.engine.refuse(*one.group, kSum.kind);
          return;
        }
        const auto operation = one.start(kSum, values);
        ASSERT_TRUE(operation->wait_until(Clock::now() + 30s));
        const std::string text = error_text(*operation);
        EXPECT_NE(text.find("refused"), std::string::npos) << text;
      });
}

TEST_P(EngineOver, MessagesMatchByTagInAnyOrder) {
  on_all(2, [](Rank& one) {
    constexpr std::uint32_t kTags = 6;
    std::vector<Values> values;
    std::vector<std::shared_ptr<Operation>> operations;
    for (std::uint32_t tag = 0; tag < kTags; ++tag)
      values.push_back(one.rank == 0 ? values_of(0, 50'000, tag) : Values(50'000));
    for (std::uint32_t i = 0; i < kTags; ++i) {
      const std::uint32_t tag = one.rank == 0 ? i : kTags - 1 - i;
      operations.push_back(one.rank == 0 ? one.engine.send(*one.group, 1, tag, message(values[tag], false))
                                         : one.engine.receive(*one.group, 0, tag, message(values[tag], true)));
    }
    for (auto& operation : operations) finish(*operation);
    for (std::uint32_t tag = 0; tag < kTags; ++tag) EXPECT_TRUE(values[tag] == values_of(0, 50'000, tag));
  });
}

TEST_P(EngineOver, AReceiveFromAnySourceSaysWhoSent) {
  on_all(4, [](Rank& one) {
    Values values = values_of(one.rank, 40'000);
    if (one.rank > 0) return finish(*one.engine.send(*one.group, 0, 7, message(values, false)));
    std::vector<bool> heard(4);
    for (int i = 1; i < 4; ++i) {
      const auto operation = one.engine.receive(*one.group, kAnySource, 7, message(values, true));
      finish(*operation);
      EXPECT_TRUE(values == values_of(operation->source(), 40'000));
      heard[operation->source()] = true;
    }
    EXPECT_EQ(heard, (std::vector<bool>{false, true, true, true}));
  });
}

// Failure -------------------------------------------------------------------------------------------------------------

TEST_P(EngineOver, DisagreementIsRaisedOnEveryRank) {
  on_all(3, [](Rank& one) {
    Values values(one.rank == 1 ? 2000 : 1000);
    const std::string error = error_of<MismatchError>([&] { one.run(kSum, values); });
    EXPECT_TRUE(contains(error, "4000 bytes") && contains(error, "8000 bytes")) << error;
  });
}

TEST_P(EngineOver, AnOperationThatNotAllStartTimesOutOnThoseThatDid) {
  on_all(3, [](Rank& one) {
    Values values(1000);
    if (one.rank == 2) {
      std::this_thread::sleep_for(700ms);
      EXPECT_THROW(finish(*one.start(kSum, values)), TimeoutError);
    } else {
      const std::string error = error_of<TimeoutError>([&] { finish(*one.start(kSum, values, 0, 300ms)); });
      EXPECT_TRUE(contains(error, "rank 2") || contains(error, "rank 1") || contains(error, "rank 0")) << error;
    }
  });
}

TEST_P(EngineOver, ARankThatLeavesFailsThoseThatNeedIt) {
  std::barrier all_have_summed(3);  // the first failure may reach a rank before the last of its operands
  on_all(3, [&](Rank& one) {
    Values values = values_of(one.rank, 1000);
    one.run(kSum, values);
    all_have_summed.arrive_and_wait();
    if (one.rank == 1) return one.close();
    const auto before = Clock::now();
    const std::string error = error_of<NetworkError>([&] { one.run(kSum, values); });
    EXPECT_TRUE(contains(error, "rank 1") || contains(error, "rank 0") || contains(error, "rank 2")) << error;
    EXPECT_LT(Clock::now() - before, 5s);
  });
}

// Rank 0 sends what rank 1 does not expect.
const Toy kOneWay = {OperationKind::kAllToAll,
                     [](int rank, int, std::size_t) {
                       Program program;
                       if (rank == 0) program.send(1, {kOutput, 0}, 4);
                       if (rank == 1) program.copy({kOutput, 0}, {kOutput, 0}, 4);
                       return program;
                     },
                     nullptr};

// It is small enough to arrive before rank 1 starts.
TEST_P(EngineOver, AMessageThatNobodyExpectsIsFoundHoweverEarlyItComes) {
  on_all(2, [](Rank& one) {
    Values values = values_of(one.rank, 100);
    one.run(kSum, values);
    if (one.rank == 1) std::this_thread::sleep_for(200ms);
    const auto operation = one.start(kOneWay, values);
    if (one.rank == 0) return finish(*operation);
    EXPECT_THROW(finish(*operation), MismatchError);
  });
}

TEST_P(EngineOver, AMessageForAnOperationThatHasCompletedNamesIt) {
  std::barrier one_is_done(2);
  on_all(2, [&](Rank& one) {
    Values values = values_of(one.rank, 100);
    one.run(kSum, values);
    if (one.rank == 0) {
      one_is_done.arrive_and_wait();
      return finish(*one.start(kOneWay, values));
    }
    finish(*one.start(kOneWay, values));
    one_is_done.arrive_and_wait();
    const std::string error = error_of<MismatchError>([&] { one.run(kSum, values); });
    EXPECT_TRUE(contains(error, "rank 1 has completed all_to_all(int32, 400 bytes)")) << error;
  });
}

TEST_P(EngineOver, AnAbortReachesEveryRank) {
  std::barrier all_have_summed(3);  // the abort may reach a rank before the last of its operands
  on_all(3, [&](Rank& one) {
    Values values = values_of(one.rank, 1000);
    one.run(kSum, values);
    all_have_summed.arrive_and_wait();
    if (one.rank == 1) one.engine.abort(*one.group, "the user lost patience");
    const std::string error = error_of<NetworkError>([&] { one.run(kSum, values); });
    EXPECT_TRUE(contains(error, "the user lost patience")) << error;
  });
}

TEST(EngineOverTcp, AStrangerOnTheLinkIsAProtocolError) {
  Meeting meeting;
  const Token token = random_token();
  TcpNetwork network(2);
  Engine engine;
  const auto group =
      engine.open({"main", 0, 2}, std::make_unique<TcpTransport>(0, 2, token, meeting.of(0), TcpOptions{}));
  TcpRank other(1, 2, token, meeting);
  other.transport->connect(0);
  const auto link = other.reports.link(0);
  write_all(*link, std::string(200, 'x'));
  Values values(10);
  const std::string error = error_of<MismatchError>([&] { finish(*start(engine, *group, kSum, 0, 2, values)); });
  EXPECT_TRUE(contains(error, "something else")) << error;
  engine.close(*group, 1s);
}

TEST(EngineOverTcp, AHundredGroupsLeaveThreadsAndDescriptorsFlat) {
  Engine engines[2];
  std::size_t descriptors = 0, threads = 0;
  for (int cycle = 0; cycle < 100; ++cycle) {
    TcpNetwork network(2);
    std::shared_ptr<Group> groups[2];
    Values values[2] = {values_of(0, 10), values_of(1, 10)};
    std::shared_ptr<Operation> operations[2];
    for (int rank = 0; rank < 2; ++rank) groups[rank] = engines[rank].open({"main", rank, 2}, network.transport(rank));
    for (int rank = 0; rank < 2; ++rank)
      operations[rank] = start(engines[rank], *groups[rank], kSum, rank, 2, values[rank]);
    for (const auto& operation : operations) finish(*operation);
    for (int rank = 0; rank < 2; ++rank) engines[rank].close(*groups[rank], 5s);
    if (cycle > 10) continue;  // by then everything that is started at first use has been
    descriptors = open_descriptors(), threads = running_threads();
  }
  eventually([&] { return open_descriptors() <= descriptors && running_threads() <= threads; });
}

}  // namespace
}  // namespace merak
