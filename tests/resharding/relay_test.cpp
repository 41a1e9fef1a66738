#include "resharding/relay.h"

#include <gtest/gtest.h>

namespace merak {
namespace {

Bucket bucket(Contributors contributors, std::vector<int> receivers) {
  return {.contributors = std::move(contributors), .receivers = std::move(receivers), .units = {}, .bytes = 1};
}

const Network kNetwork = uniform_network(4, 3);  // ranks 0-2, 3-5, 6-8, 9-11

TEST(Relay, OfAChainCrossesEachLinkOnceInEachDirection) {
  const Bucket one = bucket({{1}}, {3, 4, 5, 6, 8});
  EXPECT_EQ(chain_relays(one, kNetwork, 0), (std::vector<Relay>{{{1}, {{1, 3}, {3, 4}, {3, 5}, {3, 6}, {6, 8}}}}));
  EXPECT_EQ(chain_relays(one, kNetwork, 1), (std::vector<Relay>{{{1}, {{1, 4}, {4, 3}, {4, 5}, {4, 8}, {8, 6}}}}));
  EXPECT_EQ(most_on_a_host(one, kNetwork), 3u);
}

TEST(Relay, IsThereForEveryHostThatCanSend) {
  EXPECT_EQ(chain_relays(bucket({{0, 1, 3}}, {9}), kNetwork, 1),
            (std::vector<Relay>{{{1}, {{1, 9}}}, {{3}, {{3, 9}}}}));
  EXPECT_EQ(relays_to_one(bucket({{0, 1, 3}}, {9, 10}), kNetwork, 10, 0),
            (std::vector<Relay>{{{0}, {{0, 10}}}, {{3}, {{3, 10}}}}));
}

TEST(Relay, GoesAroundFromTheSendersHost) {
  EXPECT_EQ(chain_relays(bucket({{6}}, {0, 3, 9}), kNetwork, 0)[0].hops, (std::vector<Hop>{{6, 9}, {9, 0}, {0, 3}}));
}

TEST(Relay, EndsAtTheSlowestHost) {
  Network network = kNetwork;
  network.hosts[1].out_bytes_per_s /= 2;
  EXPECT_EQ(chain_relays(bucket({{0}}, {3, 6, 9}), network, 0)[0].hops, (std::vector<Hop>{{0, 6}, {6, 9}, {9, 3}}));
}

TEST(Relay, InsideIsSharedByTheHolders) {
  const Bucket one = bucket({{0, 2, 4}}, {0, 1, 3, 4, 5, 9});
  EXPECT_EQ(receivers_of(one, kNetwork).inside, (std::vector<int>{1, 3, 5}));
  EXPECT_EQ(receivers_of(one, kNetwork).outside, (std::vector<int>{9}));
  EXPECT_EQ(inside_relays(one, kNetwork), (std::vector<Relay>{{{0}, {{0, 1}}}, {{4}, {{4, 3}, {4, 5}}}}));
}

TEST(Relay, ThatReducesHasOneRankForEachContributor) {
  const Bucket one = bucket({{0, 3}, {1, 4}, {6}}, {9, 10});
  const std::vector<Relay> relays = chain_relays(one, kNetwork, 0);
  ASSERT_EQ(relays.size(), 3u);  // ending on host 0, 1, 2
  EXPECT_EQ(relays[0], (Relay{{6, 0, 1}, {{1, 9}, {9, 10}}}));
  EXPECT_EQ(relays[1], (Relay{{6, 3, 4}, {{4, 9}, {9, 10}}}));
  EXPECT_EQ(relays[2].reduce_chain.back(), 6);
  EXPECT_EQ(relays[2].reduce_chain.size(), 3u);
}

TEST(Relay, ThatReducesEndsAtAReceiverIfItCan) {
  const std::vector<Relay> relays = chain_relays(bucket({{0, 1}, {2}}, {1, 5}), kNetwork, 0);
  EXPECT_EQ(relays, (std::vector<Relay>{{{2, 1}, {{1, 5}}}}));
}

}  // namespace
}  // namespace merak
