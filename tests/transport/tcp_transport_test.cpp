#include "transport/tcp_transport.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "transport/errors.h"
#include "transport/hello.h"
#include "transport/tcp_helpers.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

struct Group {
  explicit Group(int size, TcpOptions options = {}) : token(random_token()) {
    for (int rank = 0; rank < size; ++rank)
      ranks.push_back(std::make_unique<TcpRank>(rank, size, token, meeting, options));
  }
  const Token token;
  Meeting meeting;
  std::vector<std::unique_ptr<TcpRank>> ranks;
};

// The next connection to that listener; none when none comes for 10 s.
Descriptor accept_one(const Deaf& listener) {
  pollfd wait = {listener.socket(), POLLIN, 0};
  ::poll(&wait, 1, 10'000);
  return Descriptor::open([&] { return listener.accept(); });
}

// Rank 1 of 2, that connects to rank 0: to a listening socket that does what the test makes it do.
struct Connecting {
  Connecting() : rank1(1, 2, random_token(), meeting) {
    meeting.put(0, listener.address().text());
    rank1.transport->connect(0);
  }
  const Deaf listener;
  Meeting meeting;
  TcpRank rank1;
};

void expect_linked(Link& a, Link& b) {
  write_all(a, "ping");
  EXPECT_EQ(read_exactly(b, 4), "ping");
  write_all(b, "pong");
  EXPECT_EQ(read_exactly(a, 4), "pong");
}

TEST(TcpTransport, LinksTwoRanksWhenBothAsk) {
  Group group(2);
  group.ranks[0]->transport->connect(1);
  group.ranks[1]->transport->connect(0);
  group.ranks[1]->transport->connect(0);
  const auto a = group.ranks[0]->reports.link(1), b = group.ranks[1]->reports.link(0);
  expect_linked(*a, *b);
}

TEST(TcpTransport, ReportsALinkThatOnlyTheOtherEndAskedFor) {
  Group group(2);
  group.ranks[1]->transport->connect(0);
  const auto a = group.ranks[0]->reports.link(1), b = group.ranks[1]->reports.link(0);
  expect_linked(*a, *b);
}

TEST(TcpTransport, WorksOverIpv6) {
  Group group(2, {.address = SocketAddress::parse_host("::1")});
  EXPECT_EQ(group.meeting.get(0)->rfind("[::1]:", 0), 0u);
  group.ranks[1]->transport->connect(0);
  const auto a = group.ranks[0]->reports.link(1), b = group.ranks[1]->reports.link(0);
  expect_linked(*a, *b);
}

TEST(TcpTransport, WaitsForAPeerThatStartsLater) {
  Meeting meeting;
  const Token token = random_token();
  TcpRank late_peer(1, 2, token, meeting, {.connect_timeout = 100ms});
  late_peer.transport->connect(0);
  std::this_thread::sleep_for(300ms);  // longer than the time to connect, which has not begun
  EXPECT_EQ(late_peer.reports.count(), 0u);
  TcpRank rank0(0, 2, token, meeting);
  const auto a = rank0.reports.link(1), b = late_peer.reports.link(0);
  expect_linked(*a, *b);
}

TEST(TcpTransport, GoesOnAfterItsDiallerWasIdle) {
  Group group(3);
  group.ranks[2]->transport->connect(0);
  const auto first = group.ranks[2]->reports.link(0);
  std::this_thread::sleep_for(20ms);
  group.ranks[2]->transport->connect(1);
  const auto a = group.ranks[2]->reports.link(1), b = group.ranks[1]->reports.link(2);
  expect_linked(*a, *b);
}

TEST(TcpTransport, TwoHundredLinksAtOnce) {
  constexpr int kSize = 201;
  Group group(kSize);
  for (int rank = 1; rank < kSize; ++rank) group.ranks[rank]->transport->connect(0);
  for (int rank = 1; rank < kSize; ++rank) {
    const auto a = group.ranks[0]->reports.link(rank), b = group.ranks[rank]->reports.link(0);
    expect_linked(*a, *b);
  }
}

TEST(TcpTransport, OneRankDialsTwoHundredAtOnce) {
  constexpr int kSize = 201;
  Group group(kSize);
  for (int rank = 0; rank < kSize - 1; ++rank) group.ranks[kSize - 1]->transport->connect(rank);
  for (int rank = 0; rank < kSize - 1; ++rank) {
    const auto a = group.ranks[rank]->reports.link(kSize - 1), b = group.ranks[kSize - 1]->reports.link(rank);
    expect_linked(*a, *b);
  }
}

TEST(TcpTransport, GroupsOfOneProcessDoNotMix) {
  Group first(2), second(2);
  first.ranks[1]->transport->connect(0);
  second.ranks[1]->transport->connect(0);
  const auto a = first.ranks[0]->reports.link(1), b = first.ranks[1]->reports.link(0);
  const auto c = second.ranks[0]->reports.link(1), d = second.ranks[1]->reports.link(0);
  expect_linked(*a, *b);
  expect_linked(*c, *d);
}

// Failure -------------------------------------------------------------------------------------------------------------

// What rank 1 of 2 reports when it is told that rank 0 listens there.
std::string failure_at(const std::string& address, std::chrono::milliseconds timeout = 10s) {
  Meeting meeting;
  meeting.put(0, address);
  TcpRank rank(1, 2, random_token(), meeting, {.connect_timeout = timeout});
  rank.transport->connect(0);
  return rank.reports.error(0);
}

TEST(TcpTransport, SaysAtOnceWhoRefuses) {
  const std::string gone = Deaf().address().text();
  EXPECT_EQ(failure_at(gone), "cannot connect to rank 0 at " + gone +
                                  ": Connection refused: its process has ended, or a firewall refuses the port");
}

TEST(TcpTransport, SaysThatATokenIsNotKnown) {
  Meeting meeting, copy;
  const TcpRank rank(0, 2, random_token(), meeting);
  const std::string error = failure_at(*meeting.get(0));
  EXPECT_TRUE(contains(error, "closed the connection during the handshake")) << error;
}

TEST(TcpTransport, GivesUpOnAPeerThatDoesNotAnswer) {
  const Deaf deaf;
  const std::string error = failure_at(deaf.address().text(), 100ms);
  EXPECT_EQ(error, "cannot connect to rank 0 at " + deaf.address().text() + ": no answer within 100 ms");
}

TEST(TcpTransport, SaysThatSomethingElseAnswers) {
  const Deaf web;
  std::thread server([&] {
    const int socket = web.accept();
    ::send(socket, "HTTP/1.1 400 Bad Request\r\n", 26, MSG_NOSIGNAL);
    ::close(socket);
  });
  const std::string error = failure_at(web.address().text());
  server.join();
  EXPECT_TRUE(contains(error, "something else than merak")) << error;
}

TEST(TcpTransport, SaysThatAnAddressIsNone) {
  EXPECT_EQ(failure_at("nowhere"), "'nowhere' is not an address with a port.");
}

TEST(TcpTransport, PassesOnThatTheRendezvousFailed) {
  struct Broken : Rendezvous {
    void publish(const std::string&) override {}
    std::optional<std::string> lookup(int) override { throw NetworkError("the store is gone"); }
  };
  TcpTransport transport(1, 2, random_token(), std::make_unique<Broken>(), {});
  Reports reports;
  transport.start(reports.on_link());
  transport.connect(0);
  EXPECT_EQ(reports.error(0), "the store is gone");
  transport.close();
}

// Longer than a listener waits for a hello: while rank 2 looks up rank 1, its connection to rank 0 is made all the
// same.
TEST(TcpTransport, ASlowLookUpHoldsUpNoOtherConnection) {
  struct Slow : Rendezvous {
    explicit Slow(Meeting& meeting) : inner(meeting.of(2)) {}
    void publish(const std::string& address) override { inner->publish(address); }
    std::optional<std::string> lookup(int peer) override {
      if (peer == 1) std::this_thread::sleep_for(4s);
      return inner->lookup(peer);
    }
    std::unique_ptr<Rendezvous> inner;
  };
  Meeting meeting;
  const Token token = random_token();
  TcpRank rank0(0, 3, token, meeting), rank1(1, 3, token, meeting);
  TcpTransport slow(2, 3, token, std::make_unique<Slow>(meeting), {});
  Reports reports;
  slow.start(reports.on_link());
  const auto before = Clock::now();
  slow.connect(0);
  slow.connect(1);
  const auto a = rank0.reports.link(2), b = reports.link(0);
  EXPECT_LT(Clock::now() - before, 3s);
  expect_linked(*a, *b);
  const auto c = rank1.reports.link(2), d = reports.link(1);
  expect_linked(*c, *d);
  slow.close();
}

TEST(TcpTransport, TriesAgainWhenTheHandshakeFailsOnce) {
  Connecting one;
  accept_one(one.listener).close();
  EXPECT_TRUE(accept_one(one.listener)) << "no second attempt";
  EXPECT_EQ(one.rank1.reports.count(), 0u);
}

TEST(TcpTransport, ALinkShowsThatThePeersTransportAndLinkAreGone) {
  Group group(2);
  group.ranks[1]->transport->connect(0);
  auto a = group.ranks[0]->reports.link(1), b = group.ranks[1]->reports.link(0);
  group.ranks[1].reset();
  expect_linked(*a, *b);  // links outlive their transport
  b.reset();
  end_of(*a);
}

TEST(TcpTransport, ALowerRankNoticesThatAHigherOneEndsWithoutConnecting) {
  Meeting meeting;
  const Token token = random_token();
  TcpRank rank0(0, 3, token, meeting);
  auto rank1 = std::make_unique<TcpRank>(1, 3, token, meeting);
  meeting.put(2, Deaf().address().text());  // nobody listens there any more: its process was killed
  rank0.transport->connect(1);
  rank0.transport->connect(2);
  const std::string killed = rank0.reports.error(2);
  EXPECT_TRUE(contains(killed, "rank 2") && contains(killed, "its process has ended")) << killed;
  std::this_thread::sleep_for(300ms);  // by now the watch on rank 1 is under way
  EXPECT_EQ(rank0.reports.count(), 1u);
  rank1.reset();
  const std::string left = rank0.reports.error(1);
  EXPECT_TRUE(contains(left, "rank 1") && contains(left, "it has left the group")) << left;
}

TEST(TcpTransport, AWatchedRankMayTakeItsTime) {
  Group group(2, {.connect_timeout = 100ms});
  group.ranks[0]->transport->connect(1);
  std::this_thread::sleep_for(1500ms);
  EXPECT_EQ(group.ranks[0]->reports.count(), 0u);
  group.ranks[1]->transport->connect(0);
  const auto a = group.ranks[0]->reports.link(1), b = group.ranks[1]->reports.link(0);
  expect_linked(*a, *b);
}

TEST(TcpTransport, HasNoPeersButTheOthers) {
  Group group(2);
  EXPECT_THROW(group.ranks[0]->transport->connect(0), std::invalid_argument);
  EXPECT_THROW(group.ranks[0]->transport->connect(2), std::invalid_argument);
  EXPECT_THROW(group.ranks[0]->transport->connect(-1), std::invalid_argument);
}

// Life ----------------------------------------------------------------------------------------------------------------

TEST(TcpTransport, ClosesPromptlyWhateverIsUnderWay) {
  const Deaf deaf;
  Meeting meeting;
  meeting.put(0, deaf.address().text());
  TcpRank rank(2, 3, random_token(), meeting, {.connect_timeout = 60s});
  rank.transport->connect(0);  // awaits an answer that never comes
  rank.transport->connect(1);  // awaits an address
  std::this_thread::sleep_for(50ms);
  const auto before = Clock::now();
  rank.transport->close();
  EXPECT_LT(Clock::now() - before, 5s);
  EXPECT_EQ(rank.reports.count(), 0u);
  rank.transport->connect(1);  // of no avail, and no harm
  rank.transport->close();
}

TEST(TcpTransport, ClosesAlthoughTheRendezvousDoesNotAnswer) {
  struct Frozen : Rendezvous {
    explicit Frozen(std::shared_future<void> when) : thaws(std::move(when)) {}
    void publish(const std::string&) override {}
    std::optional<std::string> lookup(int) override {
      thaws.wait();
      return "too late";
    }
    const std::shared_future<void> thaws;
  };
  std::promise<void> thaw;
  Reports reports;
  {
    TcpTransport transport(1, 2, random_token(), std::make_unique<Frozen>(thaw.get_future().share()), {});
    transport.start(reports.on_link());
    transport.connect(0);
    std::this_thread::sleep_for(50ms);
    const auto before = Clock::now();
    transport.close();
    EXPECT_LT(Clock::now() - before, 5s);
  }
  thaw.set_value();
  std::this_thread::sleep_for(50ms);  // the thread that was left alone ends, and reports nothing
  EXPECT_EQ(reports.count(), 0u);
}

// Whoever has welcomed a rank must hear its goodbye: so the rank that leaves ends the handshake first.
TEST(TcpTransport, ClosingEndsAHandshakeThatThePeerMayHaveAgreedTo) {
  Connecting one;
  TcpLink link(accept_one(one.listener));
  read_exactly(link, kHelloBytes);
  std::thread leaves([&] { one.rank1.transport->close(); });
  std::this_thread::sleep_for(100ms);
  std::array<std::byte, kAnswerBytes> welcome;
  write_answer(Answer::kWelcome, welcome);
  write_all(link, {reinterpret_cast<const char*>(welcome.data()), welcome.size()});
  EXPECT_TRUE(one.rank1.reports.link(0));
  leaves.join();
}

TEST(TcpTransport, MayBeDestroyedUnstarted) {
  Meeting meeting;
  TcpTransport(0, 2, random_token(), meeting.of(0), {});
}

TEST(TcpTransport, ClosingDuringHandshakesLeavesNothingBehind) {
  for (int round = 0; round < 50; ++round) {
    Group group(4);
    for (int rank = 0; rank < 4; ++rank)
      for (int peer = 0; peer < 4; ++peer)
        if (peer != rank) group.ranks[rank]->transport->connect(peer);
    std::this_thread::sleep_for(std::chrono::microseconds(round * 40));
  }
}

TEST(TcpTransport, AHundredCyclesLeaveThreadsAndDescriptorsFlat) {
  const std::size_t descriptors = open_descriptors(), threads = running_threads();
  for (int cycle = 0; cycle < 100; ++cycle) {
    Group group(2);
    group.ranks[1]->transport->connect(0);
    group.ranks[0]->reports.link(1);
    group.ranks[1]->reports.link(0);
  }
  EXPECT_EQ(open_descriptors(), descriptors);
  eventually([&] { return running_threads() == threads; });
}

}  // namespace
}  // namespace merak
