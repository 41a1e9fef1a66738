// What a forked child, such as a data-loader worker, sees of its parent's connections: nothing.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>

#include "transport/tcp_helpers.h"
#include "transport/tcp_listener.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

// A process that lives until it is told to end, and then says whether `holds` did.
class Child {
 public:
  template <class Holds>
  explicit Child(Holds holds) {
    if (::pipe2(release_, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::close(release_[1]);
    const bool result = holds();
    char byte;
    [[maybe_unused]] const auto got = ::read(release_[0], &byte, 1);
    ::_exit(result ? 0 : 1);
  }
  ~Child() { end(); }

  bool end() {
    if (pid_ == 0) return false;
    ::close(release_[0]), ::close(release_[1]);
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  pid_t pid_;
  int release_[2];
};

struct Pair {
  Pair() {
    b.transport->connect(0);
    to_b = a.reports.link(1), to_a = b.reports.link(0);
  }
  const Token token = random_token();
  Meeting meeting;
  TcpRank a{0, 2, token, meeting}, b{1, 2, token, meeting};
  std::unique_ptr<Link> to_a, to_b;
};

TEST(TcpFork, AChildHoldsNoConnectionOfItsParent) {
  Pair pair;
  Child child([] { return true; });
  pair.to_a.reset();
  end_of(*pair.to_b);  // although the child lives
  EXPECT_TRUE(child.end());
}

TEST(TcpFork, AChildDoesNotDisturbItsParentsConnections) {
  Pair pair;
  Child child([&] {
    pair.to_a.reset();
    pair.to_b.reset();
    return true;
  });
  EXPECT_TRUE(child.end());
  write_all(*pair.to_a, "still here");
  EXPECT_EQ(read_exactly(*pair.to_b, 10), "still here");
}

TEST(TcpFork, AChildDestroysTransportsWithoutWaitingForThreadsThatItDoesNotHave) {
  auto pair = std::make_unique<Pair>();
  Meeting nowhere;
  auto dialling = std::make_unique<TcpRank>(1, 2, random_token(), nowhere);
  dialling->transport->connect(0);
  std::this_thread::sleep_for(10ms);
  Child child([&] {
    ::alarm(10);
    pair.reset();
    dialling.reset();
    return true;
  });
  EXPECT_TRUE(child.end());
}

#if !defined(__SANITIZE_THREAD__)  // it cannot start threads in a forked child
TEST(TcpFork, AChildCanMakeGroupsOfItsOwn) {
  const Pair pair;
  Child child([] {
    ::alarm(20);
    Pair own;
    write_all(*own.to_a, "hello");
    return read_exactly(*own.to_b, 5) == "hello";
  });
  EXPECT_TRUE(child.end());
}

TEST(TcpFork, ForkingWhileOthersConnectHangsNobody) {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) Pair();
  });
  for (int i = 0; i < 30; ++i) {
    Child child([] {
      ::alarm(20);
      Pair own;
      return true;
    });
    EXPECT_TRUE(child.end()) << i;
  }
  stop = true;
  busy.join();
}
#endif

}  // namespace
}  // namespace merak
