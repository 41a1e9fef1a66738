#include "transport/in_process_transport.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace merak {
namespace {

// One rank, as the others meet it.
struct Member {
  enum class Stage { kNew, kStarted, kClosed };

  Stage stage = Stage::kNew;
  Transport::OnLink on_link;  // set once, before kStarted
  // Held while on_link runs, so that close() can wait for it. Never taken while the fabric's lock is held.
  std::mutex reporting;
  bool reports = true;

  void report(int peer, std::unique_ptr<Link> link, const std::string& error) {
    std::lock_guard lock(reporting);
    if (reports) on_link(peer, std::move(link), error);
  }
};

struct Pair {
  bool asked = false, reported = false;
};

}  // namespace

struct InProcessFabric::State {
  const int size;
  const std::size_t capacity;
  std::mutex mutex;
  std::vector<Member> members;
  std::vector<Pair> pairs;  // of ranks; see pair()

  State(int ranks, std::size_t bytes)
      : size(ranks), capacity(bytes), members(ranks), pairs(static_cast<std::size_t>(ranks) * ranks) {}

  Pair& pair(int a, int b) { return pairs[static_cast<std::size_t>(std::min(a, b)) * size + std::max(a, b)]; }

  void start(int rank, Transport::OnLink on_link) {
    {
      std::lock_guard lock(mutex);
      members[rank].on_link = std::move(on_link);
      members[rank].stage = Member::Stage::kStarted;
    }
    settle_all(rank);
  }

  void connect(int rank, int peer) {
    if (peer < 0 || peer >= size || peer == rank)
      throw std::invalid_argument("rank " + std::to_string(rank) + " of " + std::to_string(size) +
                                  " has no peer of rank " + std::to_string(peer) + ".");
    {
      std::lock_guard lock(mutex);
      pair(rank, peer).asked = true;
    }
    settle(rank, peer);
  }

  void close(int rank) {
    {
      std::lock_guard lock(mutex);
      members[rank].stage = Member::Stage::kClosed;
    }
    {
      std::lock_guard lock(members[rank].reporting);
      members[rank].reports = false;
    }
    settle_all(rank);
  }

  void settle_all(int rank) {
    for (int peer = 0; peer < size; ++peer)
      if (peer != rank) settle(rank, peer);
  }

  // Reports the link between two ranks, or that there will be none, once that is decided.
  void settle(int a, int b) {
    using Stage = Member::Stage;
    bool gone;
    {
      std::lock_guard lock(mutex);
      Pair& link = pair(a, b);
      gone = members[a].stage == Stage::kClosed || members[b].stage == Stage::kClosed;
      const bool fresh = members[a].stage == Stage::kNew || members[b].stage == Stage::kNew;
      if (!link.asked || link.reported || fresh) return;
      link.reported = true;
    }
    if (gone) {
      members[a].report(b, nullptr, "rank " + std::to_string(b) + " has left the group");
      members[b].report(a, nullptr, "rank " + std::to_string(a) + " has left the group");
    } else {
      auto [end_a, end_b] = in_process_link(capacity);
      members[a].report(b, std::move(end_a), "");
      members[b].report(a, std::move(end_b), "");
    }
  }
};

namespace {

template <class State>
class InProcessTransport : public Transport {
 public:
  InProcessTransport(std::shared_ptr<State> fabric, int rank) : fabric_(std::move(fabric)), rank_(rank) {}
  ~InProcessTransport() override { fabric_->close(rank_); }

  void start(OnLink on_link) override { fabric_->start(rank_, std::move(on_link)); }
  void connect(int peer) override { fabric_->connect(rank_, peer); }
  void close() override { fabric_->close(rank_); }

 private:
  const std::shared_ptr<State> fabric_;
  const int rank_;
};

}  // namespace

InProcessFabric::InProcessFabric(int size, std::size_t capacity) : state_(std::make_shared<State>(size, capacity)) {}

std::unique_ptr<Transport> InProcessFabric::transport(int rank) {
  return std::make_unique<InProcessTransport<State>>(state_, rank);
}

}  // namespace merak
