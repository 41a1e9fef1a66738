#include "transport/descriptor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "transport/fork.h"

namespace merak {
namespace {

bool is_open(int number) { return ::fcntl(number, F_GETFD) >= 0; }

Descriptor null_device() {
  return Descriptor::open([] { return ::open("/dev/null", O_RDWR | O_CLOEXEC); });
}

// Runs `child` in a forked child; whether it returned true.
template <class Child>
bool holds_in_child(Child child) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(child() ? 0 : 1);
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Descriptor, ClosesWithItsOwner) {
  Descriptor first = null_device();
  const int number = first.get();
  EXPECT_TRUE(is_open(number));
  Descriptor second = std::move(first);
  EXPECT_EQ(first.get(), -1);
  EXPECT_EQ(second.get(), number);
  second = Descriptor();
  EXPECT_FALSE(is_open(number));
}

TEST(Descriptor, KeepsErrnoWhenThereIsNone) {
  const Descriptor none = Descriptor::open([] { return ::open("/no/such/file", O_RDONLY); });
  EXPECT_EQ(errno, ENOENT);
  EXPECT_FALSE(none);
}

TEST(Descriptor, IsClosedInAForkedChildAndLeavesItsNumberToOthers) {
  std::optional<Descriptor> open = null_device();
  const int number = open->get();
  EXPECT_TRUE(holds_in_child([&] {
    if (is_open(number) || open->get() != -1) return false;
    const Descriptor other = null_device();  // gets the free number
    open.reset();                            // and must keep it
    return other.get() == number && is_open(number);
  }));
  EXPECT_TRUE(is_open(number));
}

TEST(Descriptor, OfAParentDoesNotKeepAConnectionOpenInItsChild) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  Descriptor here = Descriptor::open([&] { return ends[0]; });
  int release[2];
  ASSERT_EQ(::pipe(release), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[1]);
    ::close(release[1]);
    char byte;
    ::_exit(static_cast<int>(::read(release[0], &byte, 1)));  // lives on until the parent says so
  }
  here.close();
  char byte;
  EXPECT_EQ(::read(ends[1], &byte, 1), 0);  // the end of the stream
  ::close(release[1]);
  ::close(release[0]);
  ::waitpid(child, nullptr, 0);
  ::close(ends[1]);
}

TEST(Fork, ChildHasAnotherGenerationAndFreshGlobals) {
  static PerProcess<int> global;
  global.get() = 7;
  const auto generation = fork_generation();
  EXPECT_TRUE(holds_in_child([&] { return fork_generation() != generation && global.get() == 0; }));
  EXPECT_EQ(global.get(), 7);
  EXPECT_EQ(fork_generation(), generation);
}

TEST(Fork, ChildDestroysNothingOfItsParents) {
  struct Loud {
    explicit Loud(bool& flag) : destroyed(flag) {}
    ~Loud() { destroyed = true; }
    bool& destroyed;
  };
  bool destroyed = false;
  auto owner = make_for_process<Loud>(destroyed);
  EXPECT_TRUE(holds_in_child([&] {
    owner.reset();
    return !destroyed;
  }));
  owner.reset();
  EXPECT_TRUE(destroyed);
}

TEST(Signal, WakesAPollUntilItIsCleared) {
  Signal signal;
  signal.set();
  signal.set();
  char bytes[8];
  EXPECT_EQ(::read(signal.descriptor(), bytes, 8), 8);
  signal.set();
  signal.clear();
  EXPECT_EQ(::read(signal.descriptor(), bytes, 8), -1);
}

}  // namespace
}  // namespace merak
