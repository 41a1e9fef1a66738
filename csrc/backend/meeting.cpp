#include "backend/meeting.h"

#include <algorithm>
#include <map>
#include <utility>

#include "backend/host_identity.h"
#include "transport/errors.h"

namespace merak {
namespace {

std::string host_key(int rank) { return "merak/host/" + std::to_string(rank); }

std::string milliseconds(Clock::duration time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
}

// "rank 2" or "ranks 1, 2".
std::string name_ranks(const std::vector<int>& ranks, const char* one, const char* many) {
  std::string text = ranks.size() == 1 ? one : many;
  for (std::size_t i = 0; i < ranks.size(); ++i) text += (i == 0 ? " " : ", ") + std::to_string(ranks[i]);
  return text;
}

}  // namespace

Meeting::Meeting(std::shared_ptr<StoreClient> store, std::shared_ptr<Membership> membership)
    : store_(std::move(store)), membership_(std::move(membership)) {}

void Meeting::publish_host() { store_->set_once(host_key(membership_->identity().rank), host_identity()); }

Topology Meeting::topology(Clock::duration timeout) {
  const GroupIdentity& me = membership_->identity();
  if (me.size == 1) return uniform_topology(1);
  std::vector<std::string> keys;
  for (int rank = 0; rank < me.size; ++rank) keys.push_back(host_key(rank));
  const auto hosts = store_->wait_for(keys, Clock::now() + timeout, [this] { membership_->check_usable(); });
  if (!hosts) {
    std::vector<int> missing;
    for (int rank = 0; rank < me.size; ++rank) {
      if (!store_->has({keys[rank]})) missing.push_back(rank);
    }
    throw NetworkError("group '" + me.name + "', rank " + std::to_string(me.rank) + ": " +
                       name_ranks(missing, "rank", "ranks") + " did not join within " + milliseconds(timeout) +
                       ". Look for their first error, and check that all ranks create their groups in the same order.");
  }
  Topology topology;
  std::map<std::string, int> numbers;
  for (const std::string& host : *hosts) {
    topology.host_of.push_back(numbers.try_emplace(host, static_cast<int>(numbers.size())).first->second);
  }
  return topology;
}

std::string Meeting::rank_text() const { return std::to_string(membership_->identity().rank); }

std::string Meeting::barrier_key(const std::string& name) const {
  return "merak/monitored_barrier/" + std::to_string(barriers_) + "/" + name;
}

void Meeting::monitored_barrier(Clock::duration timeout, bool all_missing) {
  const GroupIdentity& me = membership_->identity();
  membership_->check_usable();
  ++barriers_;
  if (me.rank == 0) return judge(timeout, all_missing);
  store_->set(barrier_key(rank_text()), "here");
  await_verdict(timeout);
}

void Meeting::judge(Clock::duration timeout, bool all_missing) {
  const auto until = Clock::now() + timeout;
  std::string verdict;
  if (timeout <= Clock::duration::zero()) {
    verdict = "[Rank 0]: Rank 0 timed out in monitoredBarrier after 0 ms: it was given no time to wait.";
  }
  std::vector<int> missing;
  const auto check = [this] { membership_->check_usable(); };
  for (int rank = 1; verdict.empty() && rank < membership_->identity().size; ++rank) {
    if (!store_->wait_for({barrier_key(std::to_string(rank))}, until, check)) missing.push_back(rank);
    if (!all_missing && !missing.empty()) break;
  }
  if (!missing.empty()) {
    verdict = "[Rank 0]: " + name_ranks(missing, "Rank", "Ranks") + " failed to pass monitoredBarrier in " +
              milliseconds(timeout) + ".";
  }
  store_->set(barrier_key("verdict"), verdict);
  if (!verdict.empty()) throw TimeoutError(verdict);
}

void Meeting::await_verdict(Clock::duration timeout) {
  // A little longer than rank 0, which reports with more knowledge.
  const auto until = Clock::now() + timeout + std::max<Clock::duration>(timeout / 10, std::chrono::milliseconds(100));
  const auto verdict = store_->wait_for({barrier_key("verdict")}, until, [this] { membership_->check_usable(); });
  if (verdict && verdict->front().empty()) return;
  throw TimeoutError("Rank " + rank_text() + " successfully reached monitoredBarrier, but received errors while " +
                     "waiting for send/recv from rank 0: " +
                     (verdict ? verdict->front() : "it said nothing within " + milliseconds(timeout) + "."));
}

}  // namespace merak
