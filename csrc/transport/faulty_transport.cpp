#include "transport/faulty_transport.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "transport/faulty_link.h"

namespace merak {

struct FaultInjector::State {
  const Faults faults;
  const std::shared_ptr<WakeTimer> timer;  // null without latency
  std::mutex mutex;
  std::map<std::pair<int, int>, std::shared_ptr<FaultyWire>> wires;  // by lower and higher rank
  std::set<int> killed;

  explicit State(Faults what)
      : faults(std::move(what)),
        timer(faults.latency.count() + faults.jitter.count() > 0 ? std::make_shared<WakeTimer>() : nullptr) {}

  std::uint64_t lifetime(int low, int high) const {
    const bool cut = faults.cut && std::minmax(faults.cut->a, faults.cut->b) == std::minmax(low, high);
    return cut ? faults.cut->bytes : kNoLimit;
  }

  std::shared_ptr<FaultyWire> wire(int rank, int peer) {
    const auto [low, high] = std::minmax(rank, peer);
    std::lock_guard lock(mutex);
    auto& wire = wires[{low, high}];
    if (!wire) wire = std::make_shared<FaultyWire>(lifetime(low, high), timer);
    if (killed.count(rank) + killed.count(peer) > 0) wire->die();
    return wire;
  }

  void kill(int rank) {
    std::lock_guard lock(mutex);
    killed.insert(rank);
    for (const auto& [ends, wire] : wires)
      if (ends.first == rank || ends.second == rank) wire->die();
  }
};

namespace {

template <class State>
class FaultyTransport : public Transport {
 public:
  FaultyTransport(std::shared_ptr<State> state, int rank, std::unique_ptr<Transport> below)
      : state_(std::move(state)), rank_(rank), below_(std::move(below)) {}

  void start(OnLink on_link) override {
    below_->start([this, report = std::move(on_link)](int peer, std::unique_ptr<Link> link, const std::string& error) {
      report(peer, link ? faulty(peer, std::move(link)) : nullptr, error);
    });
  }
  void connect(int peer) override { below_->connect(peer); }
  void close() override { below_->close(); }

 private:
  std::unique_ptr<Link> faulty(int peer, std::unique_ptr<Link> link) {
    return std::make_unique<FaultyLink>(std::move(link), state_->wire(rank_, peer), state_->faults, rank_, peer);
  }

  const std::shared_ptr<State> state_;
  const int rank_;
  const std::unique_ptr<Transport> below_;
};

}  // namespace

FaultInjector::FaultInjector(Faults faults) : state_(std::make_shared<State>(std::move(faults))) {}

std::unique_ptr<Transport> FaultInjector::wrap(int rank, std::unique_ptr<Transport> transport) {
  return std::make_unique<FaultyTransport<State>>(state_, rank, std::move(transport));
}

void FaultInjector::kill(int rank) { state_->kill(rank); }

}  // namespace merak
