#include "transport/engine.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>

#include "transport/closing_links.h"
#include "transport/descriptor.h"
#include "transport/environment.h"
#include "transport/fork.h"
#include "transport/group.h"
#include "transport/thread.h"

namespace merak {
namespace {

// A peer that does not read any more keeps its link this long, for what it may still send.
constexpr auto kLinger = std::chrono::seconds(2);
constexpr auto kLongestWait = std::chrono::seconds(60);

// What the user's memory belongs to may need Python's lock to be released; a thread that holds the engine's lock must
// not wait for that. So within the engine, operations are released on a callback thread.
thread_local bool inside_engine = false;

int checked(int result, const char* what) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), what);
  return result;
}

}  // namespace

struct Engine::State {
  struct Watched {
    std::weak_ptr<Group> group;
    int peer;
  };
  struct ArrivedLink {
    std::weak_ptr<Group> group;
    int peer;
    std::unique_ptr<Link> link;
    std::string error;
  };

  explicit State(Drive drive, int threads)
      : drive(drive),
        epoll(Descriptor::open([] { return checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1"); })),
        bell(Descriptor::open([] { return checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"); })),
        callbacks(std::make_unique<CallbackThreads>(threads)) {
    epoll_event event = {.events = EPOLLIN, .data = {.u64 = 0}};
    checked(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, bell.get(), &event), "epoll_ctl");
  }

  // Locks the engine; what is released meanwhile is released elsewhere.
  struct Inside {
    explicit Inside(State& state) : lock(state.mutex) { inside_engine = true; }
    ~Inside() { inside_engine = false; }
    std::unique_lock<std::mutex> lock;
  };

  bool forked() const { return born != fork_generation(); }
  void check_not_forked() const {
    if (forked())
      throw NetworkError(
          "this process was forked off one that uses merak: its groups belong to the parent. Create the "
          "group here, or start the process with the method spawn or forkserver");
  }

  void ring() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(bell.get(), &one, sizeof one);
  }

  std::shared_ptr<ActiveOperation> activate(Request request);
  template <class How>
  std::shared_ptr<Operation> begin(Request request, How how);
  void begin_next_act(const std::shared_ptr<Group>& group, const std::shared_ptr<ActiveOperation>& operation);
  void link_arrived(const std::weak_ptr<Group>& group, int peer, std::unique_ptr<Link> link, const std::string& error);
  void adopt_links();
  void watch(const std::shared_ptr<Group>& group, int peer, Link& link);
  void forget(const std::shared_ptr<Group>& group);
  void hear(const epoll_event& event);
  bool progress();
  int milliseconds_to_wait(Clock::duration wait);
  bool run_once(Clock::duration wait);
  void run();
  void settle();

  const Drive drive;
  const std::uint64_t born = fork_generation();
  // Destroyed after the links: one in memory rings the bell, from its other end, as long as it lives.
  const Descriptor epoll, bell;
  std::mutex mutex;
  std::condition_variable links_closed;
  std::vector<std::shared_ptr<Group>> groups;
  std::unordered_map<std::uint64_t, Watched> watched;  // by the number epoll knows them under
  std::vector<Watched> unwatched;                      // links in memory: tried at every turn
  std::uint64_t next_watched = 1;
  std::uint64_t next_started = 0;
  ClosingLinks closing;
  Traffic past;  // of groups that are gone
  bool more_to_do = false;
  Clock::time_point wakes_at;  // when the engine's thread will look again by itself
  std::atomic<bool> stopping{false};

  std::mutex arrived_mutex;  // never held together with `mutex` but inside it
  std::deque<ArrivedLink> arrived;

  std::unique_ptr<CallbackThreads> callbacks;
  std::thread thread;
};

// Starting ------------------------------------------------------------------------------------------------------------

std::shared_ptr<ActiveOperation> Engine::State::activate(Request request) {
  auto active = std::make_shared<ActiveOperation>();
  CallbackThreads* elsewhere = callbacks.get();
  active->handle =
      std::shared_ptr<Operation>(new Operation(*callbacks, request.timeout, std::exchange(request.keep_alive, nullptr)),
                                 [elsewhere](Operation* operation) {
                                   if (inside_engine)
                                     elsewhere->post([operation] { delete operation; });
                                   else
                                     delete operation;
                                 });
  active->started = next_started++;
  active->deadline = Clock::now() + std::min<Clock::duration>(request.timeout, kLongestTimeout);
  active->request = std::move(request);
  return active;
}

// After something was started or ended from outside: does at once what can be done without waiting, and leaves the
// rest, if any, to the engine's thread.
void Engine::State::settle() {
  auto look_at = Clock::time_point::max();
  for (const auto& group : groups) {
    if (group->busy()) group->progress();
    more_to_do |= group->busy();
    look_at = std::min(look_at, group->next_deadline());
  }
  if (more_to_do || !closing.empty() || look_at < wakes_at) ring();
}

// Starts an operation by `how`, which is given it to hand to its group.
template <class How>
std::shared_ptr<Operation> Engine::State::begin(Request request, How how) {
  check_not_forked();
  Inside inside(*this);
  auto operation = how(activate(std::move(request)));
  settle();
  return operation;
}

std::shared_ptr<Operation> Engine::start(Group& group, Request request) {
  return state_->begin(std::move(request), [&](auto active) {
    active->ask_for_next_act = [state = state_.get(), of = group.weak_from_this(), weak = std::weak_ptr(active)] {
      state->callbacks->post([=] { state->begin_next_act(of.lock(), weak.lock()); });
    };
    return group.start_collective(std::move(active));
  });
}

// On a callback thread: what decides the next act may take a while.
void Engine::State::begin_next_act(const std::shared_ptr<Group>& group,
                                   const std::shared_ptr<ActiveOperation>& operation) {
  if (!group || !operation) return;
  Act act;
  std::string problem;
  try {
    act = operation->request.next_act();
  } catch (const std::exception& error) {
    problem = error.what();
  }
  const std::function<void()> beside = std::move(act.beside);
  {
    Inside inside(*this);
    if (problem.empty())
      group->start_next_act(*operation, std::move(act));
    else
      group->fail(Failure::kMismatch, problem);
    settle();
  }
  if (beside) beside();
}

void Engine::refuse(Group& group, OperationKind kind) {
  if (state_->forked()) return;
  State::Inside inside(*state_);
  group.refuse_collective(kind);
  state_->settle();
}

std::shared_ptr<Operation> Engine::send(Group& group, int peer, std::uint32_t tag, Request request) {
  return state_->begin(std::move(request), [&](auto active) { return group.start_send(std::move(active), peer, tag); });
}

std::shared_ptr<Operation> Engine::receive(Group& group, int peer, std::uint32_t tag, Request request) {
  return state_->begin(std::move(request),
                       [&](auto active) { return group.start_receive(std::move(active), peer, tag); });
}

// Groups --------------------------------------------------------------------------------------------------------------

std::shared_ptr<Group> Engine::open(GroupIdentity identity, std::unique_ptr<Transport> transport) {
  state_->check_not_forked();
  State* state = state_.get();
  Transport& links = *transport;
  auto farewell = [state](std::unique_ptr<Link> link, std::string last_bytes) {
    state->closing.add(std::move(link), std::move(last_bytes), Clock::now() + kLinger);
  };
  auto group = std::make_shared<Group>(std::move(identity), std::move(transport), farewell);
  {
    State::Inside inside(*state);
    state->groups.push_back(group);
  }
  auto arrived = [state, weak = std::weak_ptr<Group>(group)](int peer, std::unique_ptr<Link> link,
                                                             const std::string& error) {
    state->link_arrived(weak, peer, std::move(link), error);
  };
  try {
    links.start(arrived);
  } catch (...) {
    State::Inside inside(*state);
    std::erase(state->groups, group);
    throw;
  }
  return group;
}

void Engine::abort(Group& group, const std::string& reason) {
  if (state_->forked()) return;
  State::Inside inside(*state_);
  group.fail(Failure::kNetwork, "rank " + std::to_string(group.identity().rank) + " aborted the group: " + reason);
  state_->settle();
}

void Engine::close(Group& group, Clock::duration linger) {
  if (state_->forked()) return;
  std::shared_ptr<Group> owned;
  {
    State::Inside inside(*state_);
    group.leave();
    auto& groups = state_->groups;
    const auto it =
        std::find_if(groups.begin(), groups.end(), [&](const auto& other) { return other.get() == &group; });
    if (it == groups.end()) return;
    owned = *it;
    groups.erase(it);
    state_->forget(owned);
    const Traffic traffic = group.traffic();
    state_->past.bytes_sent += traffic.bytes_sent, state_->past.bytes_received += traffic.bytes_received;
    state_->past.operations += traffic.operations;
    state_->more_to_do = true;
  }
  state_->ring();
  group.transport().close();  // without the lock: joins threads
  const auto until = Clock::now() + linger;
  {
    State::Inside inside(*state_);
    state_->adopt_links();  // those that came at the last moment need their goodbye too
  }
  if (state_->drive == Drive::kManual) return;
  state_->ring();
  std::unique_lock lock(state_->mutex);
  state_->links_closed.wait_until(lock, until, [this] { return state_->closing.delivered(); });
}

std::uint64_t Engine::sequence(const Group& group) const { return group.collectives_started(); }

Traffic Engine::traffic(const Group& group) const { return group.traffic(); }

Traffic Engine::traffic() const {
  if (state_->forked()) return {};
  State::Inside inside(*state_);
  Traffic all = state_->past;
  for (const auto& group : state_->groups) {
    const Traffic traffic = group->traffic();
    all.bytes_sent += traffic.bytes_sent, all.bytes_received += traffic.bytes_received;
    all.operations += traffic.operations;
  }
  return all;
}

std::exception_ptr Engine::failure(const Group& group) const {
  if (state_->forked()) return nullptr;
  State::Inside inside(*state_);
  return group.failure();
}

CallbackThreads& Engine::callbacks() { return *state_->callbacks; }

// Links ---------------------------------------------------------------------------------------------------------------

void Engine::State::link_arrived(const std::weak_ptr<Group>& group, int peer, std::unique_ptr<Link> link,
                                 const std::string& error) {
  {
    std::lock_guard lock(arrived_mutex);
    arrived.push_back({group, peer, std::move(link), error});
  }
  ring();
}

void Engine::State::adopt_links() {
  std::deque<ArrivedLink> now;
  {
    std::lock_guard lock(arrived_mutex);
    now.swap(arrived);
  }
  for (ArrivedLink& one : now) {
    const auto group = one.group.lock();
    if (!group) continue;
    if (!one.link) {
      group->link_failed(one.peer, one.error);
      continue;
    }
    Link& link = *one.link;
    group->link_up(one.peer, std::move(one.link));
    if (group->failure()) continue;  // the link is on its way out already
    try {
      watch(group, one.peer, link);
    } catch (const std::system_error& error) {
      group->fail(Failure::kNetwork, std::string("cannot watch a connection: ") + error.what());
    }
  }
}

void Engine::State::watch(const std::shared_ptr<Group>& group, int peer, Link& link) {
  if (link.descriptor() < 0) {
    unwatched.push_back({group, peer});
    link.set_wake([this] { ring(); });
    return;
  }
  const std::uint64_t number = next_watched++;
  watched[number] = {group, peer};
  epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data = {.u64 = number}};
  checked(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, link.descriptor(), &event), "epoll_ctl");
}

void Engine::State::forget(const std::shared_ptr<Group>& group) {
  auto is_of_group = [&group](const Watched& one) { return one.group.lock() == group; };
  std::erase_if(watched, [&](const auto& entry) { return is_of_group(entry.second); });
  std::erase_if(unwatched, is_of_group);
}

void Engine::State::hear(const epoll_event& event) {
  if (event.data.u64 == 0) {
    std::uint64_t rings;
    [[maybe_unused]] const auto got = ::read(bell.get(), &rings, sizeof rings);
    for (const Watched& one : unwatched)
      if (auto group = one.group.lock()) group->wake(one.peer, true, true, false);
    return;
  }
  const auto it = watched.find(event.data.u64);
  if (it == watched.end()) return;
  const bool broken = event.events & (EPOLLERR | EPOLLHUP), ending = event.events & EPOLLRDHUP;
  const bool readable = event.events & EPOLLIN, writable = event.events & EPOLLOUT;
  if (const auto group = it->second.group.lock())
    group->wake(it->second.peer, readable || ending || broken, writable || broken, ending || broken);
}

// Progress ------------------------------------------------------------------------------------------------------------

bool Engine::State::progress() {
  adopt_links();
  bool moved = false, busy = false;
  const auto now = Clock::now();
  for (const auto& group : std::vector(groups)) {
    if (group->busy()) moved |= group->progress();
    group->expire(now);
    busy |= group->busy();
  }
  if (!closing.empty()) {
    closing.progress(now);
    if (closing.delivered()) links_closed.notify_all();
  }
  more_to_do = busy;
  return moved;
}

int Engine::State::milliseconds_to_wait(Clock::duration wait) {
  Inside inside(*this);
  if (more_to_do) return 0;
  const auto now = Clock::now();
  wakes_at = now + wait;
  for (const auto& group : groups) wakes_at = std::min(wakes_at, group->next_deadline());
  if (!closing.empty()) wakes_at = std::min(wakes_at, now + std::chrono::milliseconds(2));
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(wakes_at - now).count();
  return static_cast<int>(std::max<std::int64_t>(left, 0));
}

bool Engine::State::run_once(Clock::duration wait) {
  std::array<epoll_event, 64> events;
  const int count = epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), milliseconds_to_wait(wait));
  Inside inside(*this);
  for (int i = 0; i < count; ++i) hear(events[i]);
  return progress();
}

bool Engine::run_once(Clock::duration wait) { return state_->run_once(wait); }

void Engine::State::run() {
  while (!stopping.load(std::memory_order_relaxed)) run_once(kLongestWait);
}

// Life ----------------------------------------------------------------------------------------------------------------

Engine::Engine(Drive drive) : state_(std::make_unique<State>(drive, environment::callback_threads())) {
  if (drive == Drive::kThread) state_->thread = start_thread("merak-engine", [state = state_.get()] { state->run(); });
}

Engine::~Engine() {
  std::vector<std::shared_ptr<Group>> groups;
  {
    State::Inside inside(*state_);
    groups = state_->groups;
  }
  for (const auto& group : groups) close(*group, kLinger);
  state_->stopping = true;
  state_->ring();
  if (state_->thread.joinable()) state_->thread.join();
  state_->callbacks.reset();
}

Engine& Engine::process() {
  static PerProcess<Engine> engine;
  return engine.get();
}

}  // namespace merak
