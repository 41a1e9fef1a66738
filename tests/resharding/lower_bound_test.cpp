#include "resharding/lower_bound.h"

#include <gtest/gtest.h>

#include <random>

namespace merak {
namespace {

Network plain(int hosts, int ranks_per_host) {  // 1 byte/s, no latency
  Network network = uniform_network(hosts, ranks_per_host);
  for (HostLinks& host : network.hosts) host = {.out_bytes_per_s = 1, .in_bytes_per_s = 1, .inside_bytes_per_s = 10};
  network.latency_s = network.latency_inside_s = network.per_message_s = 0;
  return network;
}

Bucket bucket(Contributors contributors, std::vector<int> receivers, std::size_t bytes) {
  return {.contributors = std::move(contributors), .receivers = std::move(receivers), .units = {}, .bytes = bytes};
}

double bound(const std::vector<Bucket>& buckets, const Network& network) {
  return lower_bound(buckets, network).seconds;
}

TEST(LowerBound, OfWhatEntersAHost) {
  EXPECT_EQ(bound({bucket({{0}}, {2, 3}, 5), bucket({{1}}, {2}, 7)}, plain(4, 1)), 12);
}

TEST(LowerBound, OfWhatOnlyOneHostCanSend) {
  EXPECT_EQ(bound({bucket({{0}}, {2}, 5), bucket({{0}}, {3}, 7), bucket({{0, 1}}, {3}, 1)}, plain(4, 1)), 12);
}

TEST(LowerBound, LetsHoldersShare) {  // 20 bytes by two links
  EXPECT_EQ(bound({bucket({{0}}, {2}, 2), bucket({{0, 1}}, {2}, 8), bucket({{0, 1}}, {3}, 10)}, plain(4, 1)), 10);
  EXPECT_EQ(bound({bucket({{0}}, {2}, 11), bucket({{0, 1}}, {3}, 1)}, plain(4, 1)), 11);
}

TEST(LowerBound, CountsNothingThatIsHeldOnTheHost) {
  EXPECT_EQ(bound({bucket({{0}}, {0}, 5)}, plain(2, 2)), 0);
  EXPECT_EQ(bound({bucket({{0}}, {0, 1}, 5)}, plain(2, 2)), 0.5);  // inside
}

TEST(LowerBound, OfASumIsWhatEachContributorsHostSends) {
  // Each of 0, 1, 2 sends its 4 bytes on; host 3 gets 4.
  EXPECT_EQ(bound({bucket({{0}, {1}, {2}}, {3}, 4)}, plain(4, 1)), 4);
  EXPECT_EQ(bound({bucket({{0}, {1}}, {2}, 4), bucket({{0}, {1}}, {3}, 4)}, plain(4, 1)), 8);
  // Either replica may speak for a contributor.
  EXPECT_EQ(bound({bucket({{0, 1}}, {2}, 4), bucket({{0, 1}}, {3}, 4)}, plain(4, 1)), 4);
}

TEST(LowerBound, WithSlowLinks) {
  Network network = plain(3, 1);
  network.hosts[0].out_bytes_per_s = 0.5;
  EXPECT_EQ(bound({bucket({{0}}, {2}, 5)}, network), 10);
  EXPECT_NEAR(bound({bucket({{0, 1}}, {2}, 6)}, network), 6, 1e-9);
  network.hosts[2].in_bytes_per_s = 10;
  EXPECT_NEAR(bound({bucket({{0, 1}}, {2}, 6)}, network), 4, 1e-9);
}

// The busiest host in the best way of sharing out is the worst of all sets of hosts.
TEST(LeastBusiest, IsTheWorstSetOfHosts) {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    const int hosts = 1 + static_cast<int>(random() % 6);
    std::vector<double> bytes_per_s;
    for (int host = 0; host < hosts; ++host) bytes_per_s.push_back(1 + random() % 4);
    std::vector<Share> shares;
    for (std::size_t s = random() % 8; s > 0; --s) {
      Share share{.hosts = {}, .bytes = static_cast<double>(random() % 20)};
      for (int host = 0; host < hosts; ++host)
        if (random() % 2 == 0) share.hosts.push_back(host);
      if (share.hosts.empty()) share.hosts = {0};
      shares.push_back(share);
    }
    double worst = 0;
    for (unsigned set = 1; set < 1u << hosts; ++set) {
      double bytes = 0, bandwidth = 0;
      for (const Share& share : shares)
        if (std::all_of(share.hosts.begin(), share.hosts.end(), [&](int h) { return set >> h & 1; }))
          bytes += share.bytes;
      for (int host = 0; host < hosts; ++host) bandwidth += set >> host & 1 ? bytes_per_s[host] : 0;
      worst = std::max(worst, bytes / bandwidth);
    }
    ASSERT_NEAR(least_busiest(shares, bytes_per_s), worst, 1e-6 * worst) << "seed " << seed;
  }
}

}  // namespace
}  // namespace merak
