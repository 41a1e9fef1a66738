#include "resharding/relay.h"

#include <algorithm>
#include <map>
#include <set>

namespace merak {
namespace {

using RanksByHost = std::map<int, std::vector<int>>;

RanksByHost by_host(const std::vector<int>& ranks, const Network& network) {
  RanksByHost hosts;
  for (int rank : ranks) hosts[network.host_of[rank]].push_back(rank);
  return hosts;
}

int in_turn(const std::vector<int>& ranks, std::size_t turn) { return ranks[turn % ranks.size()]; }

bool contains(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

// How far around the hosts it is from one to another.
int distance(int from, int to, const Network& network) {
  const int hosts = static_cast<int>(network.hosts.size());
  return (to - from + hosts) % hosts;
}

// Hosts in the order of a chain that begins at `home`.
std::vector<int> chain_order(const RanksByHost& hosts, int home, const Network& network) {
  std::vector<int> order;
  for (const auto& [host, ranks] : hosts) order.push_back(host);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    const double out_a = network.hosts[a].out_bytes_per_s, out_b = network.hosts[b].out_bytes_per_s;
    if (out_a != out_b && a != home && b != home) return out_a > out_b;
    return distance(home, a, network) < distance(home, b, network);
  });
  return order;
}

// From `sender` over a leader on each host to all `receivers`, who do not have it yet.
std::vector<Hop> chain_hops(int sender, const std::vector<int>& receivers, const Network& network, std::size_t turn) {
  const RanksByHost hosts = by_host(receivers, network);
  const int home = network.host_of[sender];
  std::vector<Hop> hops;
  int leader = sender;
  for (int host : chain_order(hosts, home, network)) {
    const std::vector<int>& ranks = hosts.at(host);
    if (host != home) hops.push_back({leader, in_turn(ranks, turn)}), leader = hops.back().to;
    for (int rank : ranks)
      if (rank != leader) hops.push_back({leader, rank});
  }
  return hops;
}

// A rank for each contributor, so that few hosts are involved, host by host, `last_host` at the end: hosts are taken
// one by one, the one next that can speak for most of the contributors left; but `last_host` first of all.
class ReduceChain {
 public:
  ReduceChain(const Bucket& bucket, const Network& network, std::size_t turn)
      : bucket_(bucket), network_(network), turn_(turn), left_(bucket.contributors.size()) {
    for (std::size_t c = 0; c < left_.size(); ++c) left_[c] = c;
  }

  std::vector<int> ending_at(int last_host) {
    std::vector<std::vector<int>> by_host = {speakers(last_host)};
    while (!left_.empty()) by_host.push_back(speakers(most_able(last_host)));
    put_receiver_last(by_host.front());
    std::vector<int> chain;
    for (auto ranks = by_host.rbegin(); ranks != by_host.rend(); ++ranks)
      chain.insert(chain.end(), ranks->begin(), ranks->end());
    return chain;
  }

 private:
  std::vector<int> on_host(std::size_t contributor, int host) const {
    std::vector<int> ranks;
    for (int rank : bucket_.contributors[contributor])
      if (network_.host_of[rank] == host) ranks.push_back(rank);
    return ranks;
  }

  // Takes the contributors that have a rank on the host. A receiver speaks rather than another rank: it may be last.
  std::vector<int> speakers(int host) {
    std::vector<int> speakers;
    std::vector<std::size_t> left;
    for (std::size_t contributor : left_) {
      const std::vector<int> able = on_host(contributor, host);
      if (able.empty()) {
        left.push_back(contributor);
        continue;
      }
      const auto wants = [this](int rank) { return contains(bucket_.receivers, rank); };
      const auto receiver = std::find_if(able.begin(), able.end(), wants);
      speakers.push_back(receiver != able.end() ? *receiver : in_turn(able, turn_));
    }
    left_ = std::move(left);
    return speakers;
  }

  int most_able(int last_host) const {
    std::map<int, int> able;
    for (std::size_t contributor : left_) {
      std::set<int> hosts;
      for (int rank : bucket_.contributors[contributor]) hosts.insert(network_.host_of[rank]);
      for (int host : hosts) ++able[host];
    }
    const auto is_worse = [&](const auto& a, const auto& b) {
      if (a.second != b.second) return a.second < b.second;
      return distance(last_host, a.first, network_) > distance(last_host, b.first, network_);
    };
    return std::max_element(able.begin(), able.end(), is_worse)->first;
  }

  void put_receiver_last(std::vector<int>& ranks) const {
    const auto wants = [this](int rank) { return contains(bucket_.receivers, rank); };
    const auto receiver = std::find_if(ranks.begin(), ranks.end(), wants);
    if (receiver != ranks.end()) std::rotate(receiver, receiver + 1, ranks.end());
  }

  const Bucket& bucket_;
  const Network& network_;
  const std::size_t turn_;
  std::vector<std::size_t> left_;  // contributors that no rank speaks for yet
};

// A chain for every host on which someone can begin (or, reduced, end).
std::vector<std::vector<int>> senders(const Bucket& bucket, const Network& network, std::size_t turn) {
  std::vector<std::vector<int>> chains;
  if (!bucket.is_reduced()) {
    for (const auto& [host, ranks] : by_host(bucket.contributors.front(), network))
      chains.push_back({in_turn(ranks, turn)});
    return chains;
  }
  std::set<int> hosts;
  for (const std::vector<int>& replicas : bucket.contributors)
    for (int rank : replicas) hosts.insert(network.host_of[rank]);
  for (int host : hosts) chains.push_back(ReduceChain(bucket, network, turn).ending_at(host));
  return chains;
}

std::vector<Relay> relays_to(const Bucket& bucket, const Network& network, const std::vector<int>& receivers,
                             std::size_t turn) {
  std::vector<Relay> relays;
  for (std::vector<int>& chain : senders(bucket, network, turn)) {
    std::vector<int> others = receivers;
    std::erase(others, chain.back());
    std::vector<Hop> hops = chain_hops(chain.back(), others, network, turn);
    relays.push_back({std::move(chain), std::move(hops)});
  }
  return relays;
}

}  // namespace

Receivers receivers_of(const Bucket& bucket, const Network& network) {
  if (bucket.is_reduced()) return {.inside = {}, .outside = bucket.receivers};
  std::set<int> hosts;
  for (int rank : bucket.contributors.front()) hosts.insert(network.host_of[rank]);
  Receivers receivers;
  for (int rank : bucket.receivers)
    if (!bucket.is_held_by(rank))
      (hosts.count(network.host_of[rank]) > 0 ? receivers.inside : receivers.outside).push_back(rank);
  return receivers;
}

std::vector<Relay> inside_relays(const Bucket& bucket, const Network& network) {
  const RanksByHost holders = by_host(bucket.contributors.front(), network);
  std::map<int, Relay> relays;  // by sender
  for (const auto& [host, ranks] : by_host(receivers_of(bucket, network).inside, network))
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      const int sender = in_turn(holders.at(host), i);
      Relay& relay = relays[sender];
      relay.reduce_chain = {sender};
      relay.hops.push_back({sender, ranks[i]});
    }
  std::vector<Relay> all;
  for (auto& [sender, relay] : relays) all.push_back(std::move(relay));
  return all;
}

std::vector<Relay> relays_to_one(const Bucket& bucket, const Network& network, int receiver, std::size_t turn) {
  return relays_to(bucket, network, {receiver}, turn);
}

std::vector<Relay> chain_relays(const Bucket& bucket, const Network& network, std::size_t turn) {
  return relays_to(bucket, network, receivers_of(bucket, network).outside, turn);
}

std::size_t most_on_a_host(const Bucket& bucket, const Network& network) {
  std::size_t most = 0;
  for (const auto& [host, ranks] : by_host(receivers_of(bucket, network).outside, network))
    most = std::max(most, ranks.size());
  return most;
}

}  // namespace merak
