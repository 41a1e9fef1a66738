#include "transport/address_finder.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "transport/occasional_thread.h"

namespace merak {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{1}, kLongestPause{50};  // between two looks at the rendezvous

}  // namespace

struct AddressFinder::State {
  Rendezvous& rendezvous;
  const OnFound on_found;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int> wanted;
  milliseconds pause = kFirstPause;
  bool stopping = false;
  OccasionalThread thread{"merak-find", [this] { run(); }};

  State(Rendezvous& where, OnFound callback) : rendezvous(where), on_found(std::move(callback)) {}

  ~State() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    thread.join();
  }

  void find(int peer) {
    std::lock_guard lock(mutex);
    wanted.push_back(peer);
    pause = kFirstPause;
    thread.wake();
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
    thread.rest();
  }

  void look_for(int peer) {
    std::optional<std::string> address;
    std::string error;
    try {
      if (stops()) return;
      address = rendezvous.lookup(peer);
      if (!address) return;
    } catch (const std::exception& failure) {
      error = failure.what();
    }
    forget(peer);
    on_found(peer, address.value_or(""), error);
  }

  bool stops() {
    std::lock_guard lock(mutex);
    return stopping;
  }
};

AddressFinder::AddressFinder(Rendezvous& rendezvous, OnFound on_found)
    : state_(make_for_process<State>(rendezvous, std::move(on_found))) {}

AddressFinder::~AddressFinder() = default;

void AddressFinder::find(int peer) { state_->find(peer); }

void AddressFinder::forget(int peer) { state_->forget(peer); }

}  // namespace merak
