#include "transport/address_finder.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "transport/thread.h"

namespace merak {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{1}, kLongestPause{50};  // between two looks at the rendezvous
constexpr milliseconds kForAnAnswer{1000};                 // of the rendezvous, before its thread is left to itself

}  // namespace

struct AddressFinder::State : std::enable_shared_from_this<State> {
  const std::shared_ptr<Rendezvous> rendezvous;
  const OnFound on_found;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int> wanted;
  milliseconds pause = kFirstPause;
  bool running = false, reporting = false, stopping = false;

  State(std::shared_ptr<Rendezvous> where, OnFound callback)
      : rendezvous(std::move(where)), on_found(std::move(callback)) {}

  // The thread keeps this object, so that it can be left alone with a rendezvous that does not answer.
  void stop() {
    std::unique_lock lock(mutex);
    stopping = true;
    changed.notify_all();
    changed.wait_for(lock, kForAnAnswer, [this] { return !running; });
    changed.wait(lock, [this] { return !reporting; });
  }

  void find(int peer) {
    std::lock_guard lock(mutex);
    wanted.push_back(peer);
    pause = kFirstPause;
    if (!running) start_thread("merak-find", [state = shared_from_this()] { state->run(); }).detach();
    running = true;
    changed.notify_all();
  }

  void forget(int peer) {
    std::lock_guard lock(mutex);
    std::erase(wanted, peer);
  }

  void run() {
    std::unique_lock lock(mutex);
    while (!stopping && !wanted.empty()) {
      const std::vector<int> now = wanted;
      pause = std::min(2 * pause, kLongestPause);
      lock.unlock();
      for (int peer : now) look_for(peer);
      lock.lock();
      if (!stopping && !wanted.empty()) changed.wait_for(lock, pause);
    }
    running = false;
    changed.notify_all();
  }

  void look_for(int peer) {
    std::optional<std::string> address;
    std::string error;
    try {
      if (stops()) return;
      address = rendezvous->lookup(peer);
      if (!address) return;
    } catch (const std::exception& failure) {
      error = failure.what();
    }
    report(peer, address.value_or(""), error);
  }

  bool stops() {
    std::lock_guard lock(mutex);
    return stopping;
  }

  // Calls without the mutex: who is called may be waiting for it, in forget().
  void report(int peer, const std::string& address, const std::string& error) {
    std::unique_lock lock(mutex);
    std::erase(wanted, peer);
    if (stopping) return;
    reporting = true;
    lock.unlock();
    on_found(peer, address, error);
    lock.lock();
    reporting = false;
    changed.notify_all();
  }
};

AddressFinder::AddressFinder(std::shared_ptr<Rendezvous> rendezvous, OnFound on_found)
    : state_(std::make_shared<State>(std::move(rendezvous), std::move(on_found))) {}

AddressFinder::~AddressFinder() { state_->stop(); }

void AddressFinder::find(int peer) { state_->find(peer); }

void AddressFinder::forget(int peer) { state_->forget(peer); }

}  // namespace merak
