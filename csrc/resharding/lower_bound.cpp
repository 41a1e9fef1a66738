#include "resharding/lower_bound.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "resharding/max_flow.h"

namespace merak {
namespace {

using Hosts = std::set<int>;

Hosts hosts_of(const std::vector<int>& ranks, const Network& network) {
  Hosts hosts;
  for (int rank : ranks) hosts.insert(network.host_of[rank]);
  return hosts;
}

bool have_common(const Hosts& a, const Hosts& b) {
  return std::any_of(a.begin(), a.end(), [&b](int host) { return b.count(host) > 0; });
}

class Collector {
 public:
  explicit Collector(const Network& network)
      : network_(network), bytes_in_(network.hosts.size(), 0), inside_(network.host_of.size(), 0) {}

  void add(const Bucket& bucket) {
    const double bytes = static_cast<double>(bucket.bytes);
    const Hosts wanted = hosts_of(bucket.receivers, network_);
    std::vector<Hosts> held;  // by contributor
    for (const std::vector<int>& replicas : bucket.contributors) held.push_back(hosts_of(replicas, network_));
    const auto has_to_enter = [&held](int host) {
      return std::any_of(held.begin(), held.end(), [host](const Hosts& on) { return on.count(host) == 0; });
    };
    for (int host : wanted)
      if (has_to_enter(host)) bytes_in_[host] += bytes;
    for (int rank : bucket.receivers)
      if (!has_to_enter(network_.host_of[rank]) && !bucket.is_held_by(rank)) inside_[rank] += bytes;
    add_leaving(wanted, std::move(held), bytes);
  }

  LowerBound result() const {
    double crossing = 0, inside = 0, all_out = 0;
    std::vector<double> out;
    for (std::size_t host = 0; host < bytes_in_.size(); ++host) {
      crossing = std::max(crossing, bytes_in_[host] / network_.hosts[host].in_bytes_per_s);
      out.push_back(network_.hosts[host].out_bytes_per_s);
      all_out += out.back();
    }
    crossing = std::max(crossing, std::accumulate(bytes_in_.begin(), bytes_in_.end(), 0.0) / all_out);
    crossing = std::max(crossing, least_busiest(shares(), out));
    for (std::size_t rank = 0; rank < inside_.size(); ++rank) {
      const HostLinks& host = network_.hosts[network_.host_of[rank]];
      inside = std::max(inside, inside_[rank] / std::max(host.inside_bytes_per_s, host.in_bytes_per_s));
    }
    if (crossing > 0) crossing += network_.latency_s + 2 * network_.per_message_s;
    if (inside > 0) inside += std::min(network_.latency_inside_s, network_.latency_s) + 2 * network_.per_message_s;
    return {.seconds = std::max(crossing, inside), .bytes_in = bytes_in_};
  }

 private:
  void add_leaving(const Hosts& wanted, std::vector<Hosts> held, double bytes) {
    std::stable_sort(held.begin(), held.end(), [](const Hosts& a, const Hosts& b) { return a.size() < b.size(); });
    Hosts counted;
    for (const Hosts& hosts : held) {
      const bool stays = std::includes(hosts.begin(), hosts.end(), wanted.begin(), wanted.end());
      if (stays || have_common(hosts, counted)) continue;
      leaving_[hosts] += bytes;
      counted.insert(hosts.begin(), hosts.end());
    }
  }

  std::vector<Share> shares() const {
    std::vector<Share> shares;
    for (const auto& [hosts, bytes] : leaving_) shares.push_back({{hosts.begin(), hosts.end()}, bytes});
    return shares;
  }

  const Network& network_;
  std::vector<double> bytes_in_;     // by host
  std::vector<double> inside_;       // by rank: what neighbours have
  std::map<Hosts, double> leaving_;  // by who may send it
};

// Hosts whose shares do not fit when every link is busy for `seconds`; none if all fit.
std::vector<bool> overfull(const std::vector<Share>& shares, const std::vector<double>& bytes_per_s, double seconds,
                           double bytes) {
  const std::size_t source = 0, first_host = 1, first_share = 1 + bytes_per_s.size();
  const std::size_t sink = first_share + shares.size();
  MaxFlow flow(sink + 1);
  for (std::size_t s = 0; s < shares.size(); ++s) {
    flow.add_edge(source, first_share + s, shares[s].bytes);
    for (int host : shares[s].hosts) flow.add_edge(first_share + s, first_host + host, shares[s].bytes);
  }
  for (std::size_t host = 0; host < bytes_per_s.size(); ++host)
    flow.add_edge(first_host + host, sink, seconds * bytes_per_s[host]);
  const double negligible = 1e-12 * bytes;
  flow.run(source, sink, negligible);
  std::vector<bool> full(bytes_per_s.size());
  for (std::size_t host = 0; host < full.size(); ++host) full[host] = flow.is_reached(first_host + host);
  return full;
}

// The time that a set of hosts needs for what no others may send.
double needed(const std::vector<Share>& shares, const std::vector<double>& bytes_per_s, const std::vector<bool>& set) {
  double bytes = 0, bandwidth = 0;
  for (const Share& share : shares)
    if (std::all_of(share.hosts.begin(), share.hosts.end(), [&set](int host) { return set[host]; }))
      bytes += share.bytes;
  for (std::size_t host = 0; host < set.size(); ++host) bandwidth += set[host] ? bytes_per_s[host] : 0;
  return bandwidth > 0 ? bytes / bandwidth : 0;
}

}  // namespace

double least_busiest(const std::vector<Share>& shares, const std::vector<double>& bytes_per_s) {
  double bytes = 0;
  for (const Share& share : shares) bytes += share.bytes;
  std::vector<bool> set(bytes_per_s.size(), true);
  double seconds = 0;
  // Each set needs longer than the one before, so it ends; rounding can only end it too early.
  for (double longer = needed(shares, bytes_per_s, set); longer > seconds * (1 + 1e-9);
       longer = needed(shares, bytes_per_s, set)) {
    seconds = longer;
    set = overfull(shares, bytes_per_s, seconds, bytes);
  }
  return seconds;
}

LowerBound lower_bound(const std::vector<Bucket>& buckets, const Network& network) {
  Collector collector(network);
  for (const Bucket& bucket : buckets) collector.add(bucket);
  return collector.result();
}

}  // namespace merak
