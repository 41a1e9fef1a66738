#include "transport/tcp_dialler.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "transport/operation.h"
#include "transport/tcp_dial.h"
#include "transport/thread.h"

namespace merak {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{1}, kLongestPause{50};  // between two looks at the rendezvous, and two attempts
// A peer that connects by itself within this time, as nearly all do, is never dialled to be watched.
constexpr milliseconds kBeforeWatching{1000};
// A watch that ended is tried anew after this time, in which a connection that was made at the last moment arrives.
constexpr milliseconds kBeforeGivingUp{100};

// A peer on its way to being connected: first its address is looked up, then it is dialled. Or a peer watched: it is
// dialled likewise, but never answers; see hello.h.
struct Pending {
  int peer = -1;
  bool watched = false;
  bool lost = false;                     // the watch has ended once
  std::optional<SocketAddress> address;  // once known
  std::optional<TcpDial> dial;           // the attempt under way
  Clock::time_point deadline = Clock::time_point::max();
  Clock::time_point next{};  // when to look up or try again; not while dialling
  milliseconds pause = kFirstPause;

  void later(Clock::time_point now) {
    next = now + pause;
    pause = std::min(2 * pause, kLongestPause);
  }

  Clock::time_point wake_at() const { return dial ? deadline : std::min(next, deadline); }
};

}  // namespace

struct TcpDialler::State {
  const Identity identity;
  Rendezvous& rendezvous;
  const milliseconds timeout;
  const OnDialled on_dialled;
  Signal changed;
  std::mutex mutex;
  std::list<Pending> asked;    // not yet taken up by the thread
  std::vector<int> unwatched;  // likewise
  bool running = false, stopping = false;
  std::thread thread;

  std::list<Pending> pending;  // the thread's own

  State(Identity who, Rendezvous& where, milliseconds limit, OnDialled callback)
      : identity(std::move(who)), rendezvous(where), timeout(limit), on_dialled(std::move(callback)) {}

  ~State() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.set();
    if (thread.joinable()) thread.join();
  }

  void ask(Pending one) {
    std::lock_guard lock(mutex);
    asked.push_back(std::move(one));
    changed.set();
    if (running) return;
    if (thread.joinable()) thread.join();  // it has nothing left to do but return
    running = true;
    thread = start_thread("merak-dial", [this] { run(); });
  }

  void unwatch(int peer) {
    std::lock_guard lock(mutex);
    unwatched.push_back(peer);
    changed.set();
  }

  void run() {
    while (take_up()) {
      for (auto one = pending.begin(); one != pending.end() && !stops();)
        one = advance(*one) ? pending.erase(one) : std::next(one);
      if (!pending.empty()) wait();
    }
  }

  bool stops() {
    std::lock_guard lock(mutex);
    return stopping;
  }

  // Whether the thread goes on.
  bool take_up() {
    std::lock_guard lock(mutex);
    changed.clear();
    pending.splice(pending.end(), asked);
    for (int peer : unwatched)
      pending.remove_if([peer](const Pending& one) { return one.watched && one.peer == peer; });
    unwatched.clear();
    running = !stopping && !pending.empty();
    return running;
  }

  void wait() const {
    std::vector<pollfd> waits = {{changed.descriptor(), POLLIN, 0}};
    auto until = Clock::time_point::max();
    for (const Pending& one : pending) {
      if (one.dial) waits.push_back(one.dial->wait_for());
      until = std::min(until, one.wake_at());
    }
    const bool for_ever = until == Clock::time_point::max();
    const auto left =
        for_ever ? milliseconds(-1) : std::max(milliseconds(0), std::chrono::ceil<milliseconds>(until - Clock::now()));
    ::poll(waits.data(), waits.size(), static_cast<int>(left.count()));
  }

  // Whether it is finished with that peer.
  bool advance(Pending& one) {
    try {
      const auto now = Clock::now();
      if (one.dial) {
        if (connected(one)) return true;
      } else if (now >= one.next) {
        if (one.address || found(one, now))
          one.dial.emplace(*one.address, Hello{identity.token, static_cast<std::uint32_t>(identity.rank),
                                               static_cast<std::uint32_t>(one.peer)});
        else
          one.later(now);
      }
      if (now >= one.deadline) throw DialFailed{"no answer within " + std::to_string(timeout.count()) + " ms"};
      return false;
    } catch (const DialFailed& failure) {
      return !try_again(one, failure);
    } catch (const std::exception& error) {
      on_dialled(one.peer, {}, error.what());
      return true;
    }
  }

  bool found(Pending& one, Clock::time_point now) {
    const auto text = rendezvous.lookup(one.peer);
    if (!text) return false;
    one.address = SocketAddress::parse(*text).reached_from(identity.address);
    one.deadline = now + timeout;
    one.pause = kFirstPause;
    return true;
  }

  bool connected(Pending& one) {
    const bool welcome = one.dial->advance();
    if (one.watched && one.dial->said()) one.deadline = Clock::time_point::max();
    if (!welcome) return false;
    on_dialled(one.peer, one.dial->take(), "");
    return true;
  }

  bool try_again(Pending& one, const DialFailed& failure) {
    const auto now = Clock::now();
    one.dial.reset();
    if (failure.may_pass && now < one.deadline) {
      one.later(now);
      return true;
    }
    if (one.watched && !std::exchange(one.lost, true)) {
      one.next = now + kBeforeGivingUp;
      one.deadline = one.next + timeout;
      return true;
    }
    on_dialled(
        one.peer, {},
        "cannot connect to rank " + std::to_string(one.peer) + " at " + one.address->text() + ": " + failure.reason);
    return false;
  }
};

TcpDialler::TcpDialler(Identity identity, Rendezvous& rendezvous, std::chrono::milliseconds timeout,
                       OnDialled on_dialled)
    : state_(make_for_process<State>(std::move(identity), rendezvous, timeout, std::move(on_dialled))) {}

TcpDialler::~TcpDialler() = default;

void TcpDialler::dial(int peer) {
  Pending one;
  one.peer = peer;
  state_->ask(std::move(one));
}

void TcpDialler::watch(int peer) {
  Pending one;
  one.peer = peer;
  one.watched = true;
  one.next = Clock::now() + kBeforeWatching;
  state_->ask(std::move(one));
}

void TcpDialler::unwatch(int peer) { state_->unwatch(peer); }

}  // namespace merak
