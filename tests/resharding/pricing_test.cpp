#include "resharding/pricing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

namespace merak {
namespace {

Network network() {
  Network network = uniform_network(3, 2);
  for (HostLinks& host : network.hosts)
    host = {.out_bytes_per_s = 100e6, .in_bytes_per_s = 50e6, .inside_bytes_per_s = 1e9};
  network.latency_s = 1e-3, network.latency_inside_s = 1e-4, network.per_message_s = 1e-5;
  network.reduce_seconds_per_byte = 1e-9;
  return network;
}

TEST(Pricing, OfOneHopIsBandwidthAndLatency) {
  const Flow flow = flow_of({{0}, {{0, 2}}}, 50'000'000, network());
  EXPECT_EQ(flow.uses, (std::vector<Use>{{0, 1}, {3, 1}}));  // out of host 0, into host 1
  EXPECT_EQ(flow.lanes, (std::vector<std::size_t>{0, 5}));   // rank 0 sends, rank 2 receives
  EXPECT_DOUBLE_EQ(seconds_alone(flow, bandwidths_of(network())), 1 + 1e-3 + 2e-5);
}

TEST(Pricing, OfAChainAddsTheLastSegments) {
  const Relay relay{{0}, {{0, 2}, {2, 3}, {2, 4}, {4, 5}}};
  const Flow flow = flow_of(relay, 50'000'000, network());
  const double segment = static_cast<double>(segment_bytes(relay, 50'000'000, network()));
  EXPECT_NEAR(segment, std::sqrt(2 * 1e-5 * 50e6 * 50e6 / 2), 16);  // three hops deep
  // Out of hosts 0 and 1, into 1 and 2; inside, rank 2 to rank 3 and rank 4 to rank 5.
  EXPECT_EQ(flow.uses, (std::vector<Use>{{0, 1}, {2, 1}, {3, 1}, {5, 1}, {10, 1}, {13, 1}, {14, 1}, {17, 1}}));
  EXPECT_DOUBLE_EQ(flow.trailing_bytes, 2 * segment);
  EXPECT_DOUBLE_EQ(flow.latency_s, 2 * (1e-3 + 2e-5) + 1e-4 + 2e-5);
}

TEST(Pricing, OfAReductionAddsWhatAddingTakes) {
  const Relay relay{{0, 2, 4}, {{4, 5}}};
  const Flow flow = flow_of(relay, 1'000'000, network());
  const double segment = static_cast<double>(segment_bytes(relay, 1'000'000, network()));
  EXPECT_DOUBLE_EQ(flow.latency_s, 2 * (1e-3 + 2e-5) + 1e-4 + 2e-5 + 2 * segment * 1e-9);
}

TEST(Pricing, OfANetworkRefusesWhatIsNone) {
  EXPECT_NO_THROW(check_network(network()));
  Network wrong = network();
  wrong.hosts[1].out_bytes_per_s = 0;
  EXPECT_THROW(check_network(wrong), std::invalid_argument);
  wrong = network();
  wrong.host_of[0] = 3;
  EXPECT_THROW(check_network(wrong), std::invalid_argument);
  wrong = network();
  wrong.latency_s = -1;
  EXPECT_THROW(check_network(wrong), std::invalid_argument);
  EXPECT_EQ(network_of({7, 3, 7}).host_of, (std::vector<int>{0, 1, 0}));
}

}  // namespace
}  // namespace merak
