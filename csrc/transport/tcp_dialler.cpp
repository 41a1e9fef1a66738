#include "transport/tcp_dialler.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "transport/operation.h"
#include "transport/tcp_dial.h"
#include "transport/thread.h"

namespace merak {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{1}, kLongestPause{50};  // between two looks at the rendezvous, and two attempts

// A peer on its way to being connected: first its address is looked up, then it is dialled.
struct Pending {
  int peer = -1;
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
  std::vector<int> asked;  // peers that the thread has not taken up yet
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

  void dial(int peer) {
    std::lock_guard lock(mutex);
    asked.push_back(peer);
    changed.set();
    if (running) return;
    if (thread.joinable()) thread.join();  // it has nothing left to do but return
    running = true;
    thread = start_thread("merak-dial", [this] { run(); });
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
    for (int peer : asked) pending.emplace_back().peer = peer;
    asked.clear();
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
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
    ::poll(waits.data(), waits.size(), std::max<int>(0, static_cast<int>(left.count())));
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
    if (!one.dial->advance()) return false;
    on_dialled(one.peer, one.dial->take(), "");
    return true;
  }

  bool try_again(Pending& one, const DialFailed& failure) {
    const auto now = Clock::now();
    if (failure.may_pass && now < one.deadline) {
      one.dial.reset();
      one.later(now);
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

void TcpDialler::dial(int peer) { state_->dial(peer); }

}  // namespace merak
