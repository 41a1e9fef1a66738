#include "transport/tcp_listener.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <list>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "transport/errors.h"
#include "transport/handshake.h"
#include "transport/log.h"
#include "transport/tcp_socket.h"
#include "transport/thread.h"

namespace merak {
namespace {

constexpr auto kPauseWithoutDescriptors = std::chrono::milliseconds(100);

struct Member {
  Token token;
  int rank, size;
  TcpListener::OnSocket on_socket;

  std::mutex mutex;  // held during on_socket, so that who sets `left` knows that no call is under way or follows
  bool left = false;
  std::vector<bool> connected;
  std::vector<Descriptor> waiting;  // connections of lower ranks

  // Finishes a handshake that showed the token.
  Answer admit(const Hello& hello, Handshake& handshake) {
    std::lock_guard lock(mutex);
    const Answer answer = answer_to(hello);
    if (answer == Answer::kWelcome && hello.from < static_cast<std::uint32_t>(rank)) {
      waiting.push_back(handshake.take());
      return answer;
    }
    handshake.answer(answer);
    if (answer != Answer::kWelcome) return answer;
    connected[hello.from] = true;
    on_socket(static_cast<int>(hello.from), handshake.take());
    return answer;
  }

  void leave() {
    std::lock_guard lock(mutex);
    left = true;
    // Closing alone would end nothing as long as the listener's thread polls the connection.
    for (const Descriptor& one : waiting) ::shutdown(one.get(), SHUT_RDWR);
    waiting.clear();
  }

  void add_waiting(std::vector<pollfd>& waits) {
    std::lock_guard lock(mutex);
    for (const Descriptor& one : waiting) waits.push_back({one.get(), POLLIN, 0});
  }

  // Those that wait no longer have closed; none has anything to say.
  void drop_gone() {
    std::lock_guard lock(mutex);
    std::erase_if(waiting, [](const Descriptor& one) {
      char byte;
      return ::recv(one.get(), &byte, 1, 0) >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
    });
  }

 private:
  Answer answer_to(const Hello& hello) const {
    if (left || hello.from >= static_cast<std::uint32_t>(size) || hello.from == static_cast<std::uint32_t>(rank))
      return Answer::kNoSuchRank;
    return connected[hello.from] ? Answer::kConnected : Answer::kWelcome;
  }
};

}  // namespace

struct TcpListener::State {
  const HandshakeLimits limits;
  const Descriptor socket;
  const SocketAddress address;
  Signal stop;
  std::atomic<bool> stopping{false};
  std::atomic<std::uint64_t> refused{0};
  std::mutex mutex;
  std::list<std::shared_ptr<Member>> members;
  std::thread thread;

  // The thread's own.
  std::list<Handshake> handshakes;   // oldest first
  Clock::time_point accept_again{};  // no sooner than that
  bool warned = false;

  State(Descriptor listening, HandshakeLimits handshake_limits)
      : limits(handshake_limits), socket(std::move(listening)), address(SocketAddress::here(socket.get())) {}

  ~State() {
    stopping = true;
    stop.set();
    if (thread.joinable()) thread.join();
  }

  void run() {
    while (!stopping) {
      wait();
      accept();
      advance();
      for (const auto& member : current_members()) member->drop_gone();
    }
  }

  std::list<std::shared_ptr<Member>> current_members() {
    std::lock_guard lock(mutex);
    return members;
  }

  bool accepts() const { return handshakes.size() < limits.at_once && Clock::now() >= accept_again; }

  void wait() {
    std::vector<pollfd> waits = {{stop.descriptor(), POLLIN, 0}};
    for (const auto& member : current_members()) member->add_waiting(waits);
    if (accepts()) waits.push_back({socket.get(), POLLIN, 0});
    for (const Handshake& handshake : handshakes) waits.push_back({handshake.descriptor(), POLLIN, 0});
    const auto now = Clock::now();
    auto until = handshakes.empty() ? Clock::time_point::max() : handshakes.front().deadline();
    if (accept_again > now) until = std::min(until, accept_again);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now);
    ::poll(waits.data(), waits.size(), until == Clock::time_point::max() ? -1 : std::max<int>(0, left.count()));
  }

  void accept() {
    while (accepts()) {
      Descriptor accepted =
          Descriptor::open([this] { return ::accept4(socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC); });
      if (accepted) {
        handshakes.emplace_back(std::move(accepted), Clock::now() + limits.duration);
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return;
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        log(LogLevel::kError, "cannot accept connections: " + errno_text(errno) + "; trying again");
        accept_again = Clock::now() + kPauseWithoutDescriptors;
      }  // else that one connection has failed already
    }
  }

  void advance() {
    const auto now = Clock::now();
    for (auto handshake = handshakes.begin(); handshake != handshakes.end();)
      handshake = finished(*handshake, now) ? handshakes.erase(handshake) : std::next(handshake);
  }

  bool finished(Handshake& handshake, Clock::time_point now) {
    try {
      const auto hello = handshake.advance();
      if (!hello && now < handshake.deadline()) return false;
      if (!hello) throw NetworkError("it did not finish the handshake in time");
      admit(*hello, handshake);
    } catch (const OtherVersion& error) {
      handshake.answer(Answer::kOtherVersion);
      refuse(handshake, error.what());
    } catch (const MismatchError& error) {
      refuse(handshake, error.what());
    } catch (const NetworkError& error) {  // also how a peer's handshake ends when the peer shuts down meanwhile
      count_refusal(LogLevel::kDebug, handshake, error.what());
    }
    return true;
  }

  void admit(const Hello& hello, Handshake& handshake) {
    const std::shared_ptr<Member> member = find(hello);
    if (member == nullptr) throw MismatchError("it shows no token of a group that is open here");
    const Answer answer = member->admit(hello, handshake);
    if (answer != Answer::kWelcome) throw MismatchError(describe(answer));
  }

  std::shared_ptr<Member> find(const Hello& hello) {
    std::lock_guard lock(mutex);
    std::shared_ptr<Member> found;
    for (const auto& member : members)  // all of them, so that the time tells nothing
      if (equal_in_constant_time(member->token, hello.token) && static_cast<std::uint32_t>(member->rank) == hello.to)
        found = member;
    return found;
  }

  void refuse(const Handshake& handshake, const std::string& reason) {
    const bool first = !std::exchange(warned, true);
    count_refusal(first ? LogLevel::kWarning : LogLevel::kDebug, handshake,
                  reason + (first ? " (said once; further ones are counted)" : ""));
  }

  void count_refusal(LogLevel level, const Handshake& handshake, const std::string& reason) {
    ++refused;
    log(level, "refused a connection from " + handshake.peer() + " to " + address.text() + ": " + reason);
  }
};

namespace {

struct Listeners {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<TcpListener>> by_address;
};

Listeners& listeners() {
  static PerProcess<Listeners>& instance = *new PerProcess<Listeners>;
  return instance.get();
}

}  // namespace

std::shared_ptr<TcpListener> TcpListener::shared(const SocketAddress& address, PortRange ports) {
  const std::string key = address.host() + " " + std::to_string(ports.first) + "-" + std::to_string(ports.last);
  std::lock_guard lock(listeners().mutex);
  std::weak_ptr<TcpListener>& known = listeners().by_address[key];
  if (auto listener = known.lock()) return listener;
  const auto end = [](TcpListener* listener) {
    // Under the lock, so that whoever asks next finds the port free again.
    std::lock_guard lock(listeners().mutex);
    delete listener;
  };
  std::shared_ptr<TcpListener> fresh(new TcpListener(address, ports), end);
  known = fresh;
  log(LogLevel::kInfo, "listening on " + fresh->address().text());
  return fresh;
}

TcpListener::TcpListener(const SocketAddress& address, PortRange ports, HandshakeLimits limits) {
  if (address.is_any()) throw std::invalid_argument("will not listen on all interfaces: name an address.");
  state_ = make_for_process<State>(listening_socket(address, ports), limits);
  state_->thread = start_thread("merak-listen", [state = state_.get()] { state->run(); });
}

TcpListener::~TcpListener() = default;

const SocketAddress& TcpListener::address() const { return state_->address; }

std::uint64_t TcpListener::refused() const { return state_->refused; }

std::unique_ptr<TcpListener::Membership> TcpListener::welcome(const Token& token, int rank, int size,
                                                              OnSocket on_socket) {
  struct Registered : Membership {
    State& state;
    std::list<std::shared_ptr<Member>>::iterator place;

    Registered(State& s, std::shared_ptr<Member> member) : state(s) {
      std::lock_guard lock(state.mutex);
      place = state.members.insert(state.members.end(), std::move(member));
    }
    ~Registered() override {
      const std::shared_ptr<Member> member = *place;
      {
        std::lock_guard lock(state.mutex);
        state.members.erase(place);
      }
      member->leave();
    }
  };
  auto member = std::make_shared<Member>();
  member->token = token;
  member->rank = rank;
  member->size = size;
  member->on_socket = std::move(on_socket);
  member->connected.resize(static_cast<std::size_t>(size));
  return std::make_unique<Registered>(*state_, std::move(member));
}

}  // namespace merak
