#include "transport/tcp_link.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <thread>
#include <vector>

#include "transport/tcp_helpers.h"
#include "transport/tcp_socket.h"

namespace merak {
namespace {

TEST(TcpLink, CarriesPiecesBothWays) {
  auto [a, b] = tcp_link_pair();
  std::string first = "one", second = "two";
  const iovec from[] = {{first.data(), 3}, {nullptr, 0}, {second.data(), 3}};
  EXPECT_EQ(a->write(from), 6u);
  std::string left(2, '.'), right(4, '.');
  const iovec to[] = {{left.data(), 2}, {right.data(), 4}};
  eventually([&] { return b->read(to) == 6; });
  EXPECT_EQ(left + right, "onetwo");
  write_all(*b, "back");
  EXPECT_EQ(read_exactly(*a, 4), "back");
}

TEST(TcpLink, NeitherReadsNorWritesOfNothingWaitOrEnd) {
  auto [a, b] = tcp_link_pair();
  EXPECT_EQ(read_some(*a, 10), "");
  EXPECT_EQ(a->read({}), 0u);
  EXPECT_EQ(a->write({}), 0u);
  b->finish_writing();
  EXPECT_EQ(a->read({}), 0u);
  EXPECT_EQ(end_of(*a), "closed by the peer");
}

TEST(TcpLink, StopsWhenThePeerDoesNotReadAndGoesOnWhenItDoes) {
  auto [a, b] = tcp_link_pair();
  const std::string chunk = pattern(1 << 20);
  std::size_t written = 0;
  for (std::size_t moved; (moved = write_some(*a, chunk)) > 0;) written += moved;
  EXPECT_FALSE(a->drained());
  EXPECT_GT(written, 0u);
  std::size_t read = 0;
  eventually([&] {
    read += read_some(*b, 1 << 20).size();
    return read == written;
  });
  eventually([&] { return a->drained(); });
  EXPECT_GT(write_some(*a, chunk), 0u);
}

TEST(TcpLink, KeepsLittleUnsent) {
  auto [a, b] = tcp_link_pair();
  const int descriptor = a->descriptor();
  int unsent = 0;
  socklen_t size = sizeof unsent;
  {
    const Descriptor borrowed = Descriptor::open([&] { return ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0); });
    set_connection_options(borrowed, std::chrono::seconds(60));
  }
  ASSERT_EQ(::getsockopt(descriptor, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, &size), 0);
  EXPECT_EQ(unsent, 256 * 1024);
  int delay = 0;
  ASSERT_EQ(::getsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &delay, &size), 0);
  EXPECT_NE(delay, 0);
}

TEST(TcpLink, MovesManyMegabytes) {
  auto [a, b] = tcp_link_pair();
  const std::string sent = pattern(20 << 20);
  std::thread writer([&, link = a.get()] {
    write_all(*link, sent);
    link->finish_writing();
  });
  EXPECT_EQ(read_exactly(*b, sent.size()), sent);
  EXPECT_EQ(end_of(*b), "closed by the peer");
  writer.join();
}

TEST(TcpLink, TakesMorePiecesThanOneCallCan) {
  auto [a, b] = tcp_link_pair();
  std::string sent = pattern(3000);
  std::vector<iovec> pieces;
  for (char& byte : sent) pieces.push_back({&byte, 1});
  std::span<const iovec> left = pieces;
  eventually([&] {
    left = left.subspan(a->write(left));
    return left.empty();
  });
  EXPECT_EQ(read_exactly(*b, sent.size()), sent);
}

TEST(TcpLink, HalfOpenStillCarriesTheOtherWay) {
  auto [a, b] = tcp_link_pair();
  write_all(*a, "done");
  a->finish_writing();
  EXPECT_EQ(read_exactly(*b, 4), "done");
  EXPECT_EQ(end_of(*b), "closed by the peer");
  write_all(*b, "heard");
  EXPECT_EQ(read_exactly(*a, 5), "heard");
  eventually([&] { return a->drained() && b->drained(); });
}

TEST(TcpLink, SaysThatThePeerWasKilled) {
  auto [a, b] = tcp_link_pair();
  const linger at_once = {.l_onoff = 1, .l_linger = 0};  // close resets the connection
  ::setsockopt(b->descriptor(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  b.reset();
  EXPECT_EQ(end_of(*a), "reset by the peer: its process has ended");
  EXPECT_THROW(write_some(*a, "x"), LinkClosed);
}

TEST(TcpLink, WritingToAPeerThatHasGoneDoesNotKillTheProcess) {  // by SIGPIPE
  auto [a, b] = tcp_link_pair();
  b.reset();
  EXPECT_THROW(eventually([&, link = a.get()] { return write_some(*link, "x") == 0; }), LinkClosed);
}

TEST(TcpLink, ReadsWhatArrivedBeforeAReset) {
  auto [a, b] = tcp_link_pair();
  write_all(*b, "last words");
  eventually([&] { return b->drained(); });
  write_all(*a, "unread");
  eventually([&] { return a->drained(); });
  b.reset();  // with unread bytes this is a reset
  EXPECT_EQ(read_exactly(*a, 10), "last words");
  end_of(*a);
}

TEST(TcpLink, CanBeWaitedForWithPoll) {
  auto [a, b] = tcp_link_pair();
  pollfd readable = {b->descriptor(), POLLIN, 0};
  EXPECT_EQ(::poll(&readable, 1, 0), 0);
  write_all(*a, "x");
  EXPECT_EQ(::poll(&readable, 1, 10'000), 1);
}

}  // namespace
}  // namespace merak
