#include "transport/tcp_dialler.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "transport/address_finder.h"
#include "transport/errors.h"
#include "transport/occasional_thread.h"
#include "transport/operation.h"
#include "transport/tcp_dial.h"

namespace merak {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{1}, kLongestPause{50};  // between two attempts
// A peer that connects by itself within this time, as nearly all do, is never dialled to be watched.
constexpr milliseconds kBeforeWatching{1000};
// A watch that ended is tried anew after this time, in which a connection that was made at the last moment arrives; and
// so is a handshake that failed.
constexpr milliseconds kBeforeGivingUp{500};
constexpr milliseconds kForLastHandshakes{2000};

// A peer on its way to being connected: first its address is looked up, then it is dialled. Or a peer watched: it is
// dialled likewise, but never answers; see hello.h.
struct Pending {
  int peer = -1;
  bool watched = false;
  bool failed = false;                   // and tried anew
  bool sought = false;                   // its address is being looked up
  std::optional<SocketAddress> address;  // once known
  std::optional<TcpDial> dial;           // the attempt under way
  Clock::time_point deadline = Clock::time_point::max();
  Clock::time_point next{};  // when to begin or try again; not while looking up or dialling
  milliseconds pause = kFirstPause;

  void later(Clock::time_point now) {
    next = now + pause;
    pause = std::min(2 * pause, kLongestPause);
  }

  bool in_handshake() const { return !watched && dial && dial->said(); }

  Clock::time_point wake_at() const { return dial || (sought && !address) ? deadline : std::min(next, deadline); }
};

struct Found {
  int peer;
  std::string address, error;
};

}  // namespace

struct TcpDialler::State {
  const Identity identity;
  const Timeouts timeouts;
  const OnDialled on_dialled;
  Signal changed;
  std::mutex mutex;
  std::list<Pending> asked;    // not yet taken up by the thread
  std::vector<int> unwatched;  // likewise
  std::vector<Found> found;    // likewise
  bool stopping = false;
  OccasionalThread thread{"merak-dial", [this] { run(); }};

  // The thread's own.
  std::list<Pending> pending;
  bool ending = false;

  // Last, so that it ends first.
  AddressFinder finder;

  State(Identity who, std::shared_ptr<Rendezvous> where, Timeouts limits, OnDialled callback)
      : identity(std::move(who)),
        timeouts(limits),
        on_dialled(std::move(callback)),
        finder(std::move(where), [this](int peer, const std::string& address, const std::string& error) {
          std::lock_guard lock(mutex);
          found.push_back({peer, address, error});
          changed.set();
        }) {}

  ~State() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.set();
    thread.join();
  }

  void ask(Pending one) {
    std::lock_guard lock(mutex);
    asked.push_back(std::move(one));
    thread.wake();
    changed.set();
  }

  void unwatch(int peer) {
    std::lock_guard lock(mutex);
    unwatched.push_back(peer);
    changed.set();
  }

  void run() {
    while (take_up()) {
      for (auto one = pending.begin(); one != pending.end() && (ending || !stops());)
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
    std::vector<Found> addresses;
    {
      std::lock_guard lock(mutex);
      changed.clear();
      pending.splice(pending.end(), asked);
      for (int peer : std::exchange(unwatched, {})) {
        finder.forget(peer);
        pending.remove_if([peer](const Pending& one) { return one.watched && one.peer == peer; });
      }
      addresses = std::exchange(found, {});
      if (stopping) keep_handshakes();
      if (pending.empty()) {
        thread.rest();
        return false;
      }
    }
    for (const Found& one : addresses) take_address(one);
    return true;
  }

  void keep_handshakes() {
    pending.remove_if([](const Pending& one) { return !one.in_handshake(); });
    if (std::exchange(ending, true)) return;
    for (Pending& one : pending) one.deadline = std::min(one.deadline, Clock::now() + kForLastHandshakes);
  }

  void take_address(const Found& found_one) {
    const auto one = std::find_if(pending.begin(), pending.end(),
                                  [&](const Pending& other) { return other.peer == found_one.peer; });
    if (one == pending.end()) return;
    try {
      if (!found_one.error.empty()) throw NetworkError(found_one.error);
      one->address = SocketAddress::parse(found_one.address).reached_from(identity.address);
      one->deadline = Clock::now() + timeouts.connect;
      one->next = {};
    } catch (const std::exception& error) {
      const int peer = one->peer;
      pending.erase(one);
      give_up(peer, error.what());
    }
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
        begin(one);
      }
      if (now >= one.deadline) throw DialFailed{"no answer within " + std::to_string(timeouts.connect.count()) + " ms"};
      return false;
    } catch (const DialFailed& failure) {
      return !try_again(one, failure);
    } catch (const std::exception& error) {
      give_up(one.peer, error.what());
      return true;
    }
  }

  void give_up(int peer, const std::string& why) {
    if (!ending) on_dialled(peer, {}, why);
  }

  void begin(Pending& one) {
    if (one.address)
      one.dial.emplace(
          *one.address,
          Hello{identity.token, static_cast<std::uint32_t>(identity.rank), static_cast<std::uint32_t>(one.peer)},
          timeouts.lost_host);
    else if (!std::exchange(one.sought, true))
      finder.find(one.peer);
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
    if (failure.again == DialFailed::Again::kUntilDeadline && now < one.deadline) {
      one.later(now);
      return true;
    }
    const bool once_more = one.watched || failure.again == DialFailed::Again::kOnce;
    if (once_more && !std::exchange(one.failed, true)) {
      one.next = now + kBeforeGivingUp;
      one.deadline = one.next + timeouts.connect;
      return true;
    }
    give_up(one.peer, "cannot connect to rank " + std::to_string(one.peer) + " at " + one.address->text() + ": " +
                          failure.reason);
    return false;
  }
};

TcpDialler::TcpDialler(Identity identity, std::shared_ptr<Rendezvous> rendezvous, Timeouts timeouts,
                       OnDialled on_dialled)
    : state_(make_for_process<State>(std::move(identity), std::move(rendezvous), timeouts, std::move(on_dialled))) {}

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
