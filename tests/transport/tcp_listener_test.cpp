#include "transport/tcp_listener.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>

#include "transport/hello.h"
#include "transport/tcp_helpers.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

const SocketAddress kLoopback = SocketAddress::parse_host("127.0.0.1");

std::string hello_bytes(const Token& token, std::uint32_t from, std::uint32_t to) {
  std::array<std::byte, kHelloBytes> bytes;
  write_hello({token, from, to}, bytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Answer answer_in(const std::string& heard) {
  std::array<std::byte, kAnswerBytes> bytes;
  if (heard.size() != bytes.size()) throw std::runtime_error("no answer");
  std::memcpy(bytes.data(), heard.data(), bytes.size());
  return parse_answer(bytes);
}

// A listener with rank 1 of a group of four, which keeps what it is handed.
struct Fixture : testing::Test {
  TcpListener listener{kLoopback, {}, {.duration = 300ms, .at_once = 8}};
  const Token token = random_token();
  std::mutex mutex;
  std::map<int, Descriptor> handed;
  std::unique_ptr<TcpListener::Membership> membership =
      listener.welcome(token, 1, 4, [this](int from, Descriptor socket) {
        std::lock_guard lock(mutex);
        handed[from] = std::move(socket);
      });

  bool has(int from) {
    std::lock_guard lock(mutex);
    return handed.count(from) > 0;
  }
  Stranger stranger() const { return Stranger(listener.address()); }
  void refuses(const std::string& bytes) {
    const auto before = listener.refused();
    Stranger one = stranger();
    EXPECT_TRUE(one.say(bytes));
    EXPECT_EQ(one.hear(), "");
    EXPECT_EQ(listener.refused(), before + 1);
  }
};

using TcpListenerTest = Fixture;

TEST_F(TcpListenerTest, HandsOverWhoKnowsTheToken) {
  Stranger rank3 = stranger();
  rank3.say(hello_bytes(token, 3, 1) + "and the first frame");
  eventually([&] { return has(3); });
  TcpLink link(std::move(handed[3]));
  EXPECT_EQ(read_exactly(link, 19), "and the first frame");  // the listener read nothing beyond the hello
  link.finish_writing();
  EXPECT_EQ(answer_in(rank3.hear()), Answer::kWelcome);
  EXPECT_EQ(listener.refused(), 0u);
}

TEST_F(TcpListenerTest, AHelloMayComeByteByByte) {
  Stranger rank2 = stranger();
  for (char byte : hello_bytes(token, 2, 1)) rank2.say(std::string(1, byte));
  eventually([&] { return has(2); });
}

TEST_F(TcpListenerTest, RefusesAnotherTokenWithoutAWord) {
  Token wrong = token;
  wrong[31] ^= std::byte{1};
  refuses(hello_bytes(wrong, 3, 1));
  refuses(hello_bytes(token, 3, 2));  // a rank that does not live here
}

TEST_F(TcpListenerTest, RefusesGarbageAtItsFirstByte) {
  refuses("GET / HTTP/1.1\r\n\r\n");
  refuses("M\n");
  refuses(std::string(100'000, '\xff'));
}

TEST_F(TcpListenerTest, RefusesRanksThatDoNotConnectToThisOne) {
  for (std::uint32_t from : {1u, 4u, 0xffffffffu}) {
    Stranger one = stranger();
    one.say(hello_bytes(token, from, 1));
    EXPECT_EQ(answer_in(one.hear()), Answer::kNoSuchRank) << from;
  }
}

TEST_F(TcpListenerTest, LetsALowerRankWaitAsLongAsTheMembershipLasts) {
  Stranger rank0 = stranger();
  rank0.say(hello_bytes(token, 0, 1));
  std::this_thread::sleep_for(500ms);  // longer than a handshake may take
  char byte;
  EXPECT_EQ(::recv(rank0.socket(), &byte, 1, MSG_DONTWAIT), -1);
  membership.reset();
  EXPECT_EQ(rank0.hear(), "");
  EXPECT_EQ(listener.refused(), 0u);
}

TEST_F(TcpListenerTest, KeepsNothingOfALowerRankThatWaitsNoLonger) {
  const std::size_t descriptors = open_descriptors();
  for (int i = 0; i < 20; ++i) stranger().say(hello_bytes(token, 0, 1));
  eventually([&] { return open_descriptors() == descriptors; });
}

TEST_F(TcpListenerTest, RefusesASecondConnectionOfTheSameRank) {
  Stranger first = stranger(), second = stranger();
  first.say(hello_bytes(token, 3, 1));
  eventually([&] { return has(3); });
  second.say(hello_bytes(token, 3, 1));
  EXPECT_EQ(answer_in(second.hear()), Answer::kConnected);
}

TEST_F(TcpListenerTest, TellsAnotherVersionSo) {
  std::string other = hello_bytes(token, 3, 1);
  other[4] = 9;
  Stranger one = stranger();
  one.say(other);
  EXPECT_EQ(answer_in(one.hear()), Answer::kOtherVersion);
}

TEST_F(TcpListenerTest, GivesUpOnASlowOrSilentStranger) {
  Stranger silent = stranger(), slow = stranger();
  slow.say("MRKH");
  EXPECT_EQ(silent.hear() + slow.hear(), "");
  EXPECT_EQ(listener.refused(), 2u);
}

TEST_F(TcpListenerTest, NoticesAStrangerThatLeavesHalfWay) {
  {
    Stranger one = stranger();
    one.say("MRKH");
  }
  eventually([&] { return listener.refused() == 1; });
}

TEST_F(TcpListenerTest, ManySilentStrangersDoNotKeepARankOut) {
  std::vector<Stranger> crowd;
  for (int i = 0; i < 20; ++i) crowd.push_back(stranger());  // more than handshakes at once
  Stranger rank3 = stranger();
  rank3.say(hello_bytes(token, 3, 1));
  eventually([&] { return has(3); });
}

TEST_F(TcpListenerTest, ForgetsARankThatLeaves) {
  membership.reset();
  refuses(hello_bytes(token, 3, 1));
}

TEST_F(TcpListenerTest, ServesManyGroupsAndRanks) {
  const Token other = random_token();
  std::atomic<int> came{0};
  auto second = listener.welcome(other, 1, 2, [&](int, Descriptor) { came += 1; });
  auto third = listener.welcome(token, 2, 4, [&](int, Descriptor) { came += 10; });
  Stranger a = stranger(), b = stranger();
  a.say(hello_bytes(token, 3, 2));
  b.say(hello_bytes(token, 2, 1));
  eventually([&] { return came == 10 && has(2); });
}

TEST(TcpListener, SharedIsOneUntilTheLastUserIsGone) {
  auto first = TcpListener::shared(kLoopback, {});
  const auto port = first->address().port();
  EXPECT_EQ(TcpListener::shared(kLoopback, {}), first);
  first.reset();
  EXPECT_THROW(Stranger(kLoopback.with_port(port)), std::runtime_error);
}

TEST(TcpListener, TakesAFreePortOfTheRange) {
  const Deaf taken;
  const auto port = taken.address().port();
  const PortRange only = {port, port};
  const std::string error = error_of<NetworkError>([&] { TcpListener(kLoopback, only); });
  EXPECT_TRUE(contains(error, "127.0.0.1") && contains(error, "MERAK_SOCKET_PORTS")) << error;
  const PortRange range = {port, static_cast<std::uint16_t>(std::min(65535, port + 50))};
  const TcpListener listener(kLoopback, range);
  EXPECT_GT(listener.address().port(), range.first);
  EXPECT_LE(listener.address().port(), range.last);
}

TEST(TcpListener, NeverListensOnAllInterfaces) {
  EXPECT_THROW(TcpListener(SocketAddress::parse_host("0.0.0.0"), {}), std::invalid_argument);
  EXPECT_THROW(TcpListener(SocketAddress::parse_host("::"), {}), std::invalid_argument);
}

TEST(TcpListener, SaysWhereItCannotListen) {
  const std::string error = error_of<NetworkError>([] { TcpListener(SocketAddress::parse_host("192.0.2.77"), {}); });
  EXPECT_EQ(error, "cannot listen on 192.0.2.77: Cannot assign requested address");
}

}  // namespace
}  // namespace merak
