#include "resharding/network.h"

#include <cmath>
#include <map>
#include <stdexcept>
#include <string>

namespace merak {

Network uniform_network(int hosts, int ranks_per_host) {
  std::vector<int> host_of;
  for (int host = 0; host < hosts; ++host) host_of.insert(host_of.end(), ranks_per_host, host);
  return network_of(host_of);
}

Network network_of(const std::vector<int>& host_of) {
  Network network;
  std::map<int, int> index;
  for (int host : host_of) {
    const int next = static_cast<int>(index.size());
    network.host_of.push_back(index.try_emplace(host, next).first->second);
  }
  network.hosts.resize(index.size());
  return network;
}

void check_network(const Network& network) {
  for (std::size_t rank = 0; rank < network.host_of.size(); ++rank) {
    const int host = network.host_of[rank];
    if (host < 0 || static_cast<std::size_t>(host) >= network.hosts.size())
      throw std::invalid_argument("rank " + std::to_string(rank) + " is on host " + std::to_string(host) + " of " +
                                  std::to_string(network.hosts.size()));
  }
  for (std::size_t host = 0; host < network.hosts.size(); ++host)
    for (double bandwidth : {network.hosts[host].out_bytes_per_s, network.hosts[host].in_bytes_per_s,
                             network.hosts[host].inside_bytes_per_s})
      if (!(bandwidth > 0) || !std::isfinite(bandwidth))
        throw std::invalid_argument("host " + std::to_string(host) + ": give a bandwidth above 0 in bytes per second");
  for (double seconds :
       {network.latency_s, network.latency_inside_s, network.per_message_s, network.reduce_seconds_per_byte})
    if (!(seconds >= 0) || !std::isfinite(seconds))
      throw std::invalid_argument("a latency or a cost of messages is not a time of 0 seconds or more");
}

}  // namespace merak
