#include "resharding/plan.h"

#include <gtest/gtest.h>

#include "resharding/check_plan.h"
#include "resharding/delivery.h"
#include "resharding/oracle.h"

namespace merak {
namespace {

constexpr double kBytesPerSecond = 12.5e6;

// Links of 100 Mbit/s without latency, so that a plan's time is that of its bytes.
Network test_bed(int hosts, int ranks_per_host) {
  Network network = uniform_network(hosts, ranks_per_host);
  for (HostLinks& host : network.hosts) host.out_bytes_per_s = host.in_bytes_per_s = kBytesPerSecond;
  network.latency_s = network.latency_inside_s = network.per_message_s = 0;
  return network;
}

// Ranks of whole hosts, or the first few of each.
Layout on_hosts(int first_host, int hosts, int ranks, std::vector<Placement> placements) {
  Layout layout{.mesh_shape = {hosts, ranks}, .ranks = {}, .placements = std::move(placements)};
  for (int host = first_host; host < first_host + hosts; ++host)
    for (int rank = 0; rank < ranks; ++rank) layout.ranks.push_back(4 * host + rank);
  return layout;
}

struct Published {
  const char* name;
  std::vector<std::size_t> shape;
  Layout source, target;
  double bound;  // in units of the time that the whole tensor takes on a link
};

// The suite of Alpa's cross-mesh resharding paper. 5 hosts of 4 ranks; S0 is over hosts, S1 over the ranks of a host.
std::vector<Published> published() {
  const std::vector<std::size_t> shape = {1024, 1024, 512};
  const Placement r = replicate(), s0 = shard(0), s1 = shard(1), s2 = shard(2);
  const auto from = [](std::vector<Placement> p) { return on_hosts(0, 2, 4, std::move(p)); };
  const auto to = [](std::vector<Placement> p) { return on_hosts(2, 2, 4, std::move(p)); };
  return {{"1", shape, from({s0, r}), to({s0, r}), 0.5},
          {"2", shape, from({r, r}), to({s0, r}), 0.5},
          {"3", shape, from({s1, r}), to({s0, r}), 0.5},
          {"4", shape, from({s1, s1}), to({s0, s0}), 0.5},
          {"5", shape, from({r, s0}), to({s0, r}), 0.5},
          {"6", {3072, 1024, 170}, from({s0, r}), on_hosts(2, 3, 4, {s0, r}), 0.5},
          {"7", shape, on_hosts(0, 1, 4, {r, s0}), to({r, r}), 1},
          {"9", shape, from({s1, r}), to({s2, r}), 0.5}};
}

TEST(Plan, OfThePublishedCasesTakesTheTimeOfTheLowerBound) {
  for (const Published& one : published()) {
    const MoveBatch batch = cut({{one.shape, DType::kInt32, one.source, one.target}});
    const Network network = test_bed(5, 4);
    const ReshardPlan plan = make_plan(batch, network);
    const double whole = 4.0 * one.shape[0] * one.shape[1] * one.shape[2] / kBytesPerSecond;
    EXPECT_EQ(fault_of(plan, batch), "") << one.name;
    EXPECT_NEAR(plan.bound_s / whole, one.bound, 1e-9) << one.name;
    EXPECT_LE(plan.seconds() / whole, one.bound * 1.002) << one.name << ", " << name(plan.chosen.shape);
  }
}

TEST(Plan, FromOneToManyTakesTheTimeOfOneLink) {
  for (int hosts : {1, 2, 3, 4})
    for (int ranks : {1, 2, 4}) {
      const Layout source{.mesh_shape = {1}, .ranks = {0}, .placements = {replicate()}};
      const Layout target = on_hosts(1, hosts, ranks, {replicate(), replicate()});
      const MoveBatch batch = cut({{{std::size_t{1} << 28}, DType::kInt32, source, target}});
      const ReshardPlan plan = make_plan(batch, test_bed(5, 4));
      EXPECT_EQ(fault_of(plan, batch), "");
      EXPECT_LE(plan.seconds(), 1.003 * double{1 << 30} / kBytesPerSecond) << hosts << " hosts of " << ranks;
    }
}

std::vector<Move> random_batch(RandomMoves& random) {
  std::vector<Move> moves;
  for (std::size_t i = random.draw(1, 4); i > 0; --i) moves.push_back(random.move());
  return moves;
}

TEST(Plan, OfRandomBatchesGivesEveryRankWhatItWants) {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    RandomMoves random(seed, 12);
    const std::vector<Move> moves = random_batch(random);
    for (const Move& move : moves) ASSERT_NO_THROW(check_move(move, 12, "w")) << "seed " << seed;
    const Network network = random.network();
    const MoveBatch batch = cut(moves);
    const ReshardPlan plan = make_plan(batch, network);
    ASSERT_EQ(fault_of(plan, batch), "") << "seed " << seed;
    ASSERT_GE(plan.seconds(), plan.bound_s * (1 - 1e-6)) << "seed " << seed;
    ASSERT_EQ(plan, make_plan(cut(moves), network)) << "seed " << seed;
    Delivery delivery(plan, batch);
    ASSERT_EQ(delivery.run(), delivery.expected()) << "seed " << seed;
  }
}

TEST(Plan, SharesAPayloadAmongSendersWithSlowLinks) {  // 4 hosts hold it all, and let out a quarter of what one takes
  Network network = test_bed(5, 4);
  for (int host = 0; host < 4; ++host) network.hosts[host].out_bytes_per_s = kBytesPerSecond / 4;
  const Layout source = on_hosts(0, 4, 1, {replicate(), replicate()}),
               target = on_hosts(4, 1, 1, {replicate(), shard(0)});
  const MoveBatch batch = cut({{{64 << 20}, DType::kFloat32, source, target}});
  const ReshardPlan plan = make_plan(batch, network);
  EXPECT_EQ(fault_of(plan, batch), "");
  EXPECT_TRUE(plan.chosen.cut);
  EXPECT_NEAR(plan.seconds(), plan.bound_s, 0.01 * plan.bound_s);
}

TEST(Plan, OfAGatherInPlaceIsARing) {
  const MoveBatch batch = cut({{{64 << 20},
                                DType::kFloat32,
                                on_hosts(0, 5, 1, {shard(0), replicate()}),
                                on_hosts(0, 5, 1, {replicate(), replicate()})}});
  const ReshardPlan plan = make_plan(batch, test_bed(5, 4));
  EXPECT_NEAR(plan.bound_s, 0.8 * (256 << 20) / kBytesPerSecond, 1e-3);
  EXPECT_LE(plan.seconds(), 1.01 * plan.bound_s);
}

TEST(Plan, OfAReductionInPlaceIsARingOfPieces) {  // 2 (n - 1)/n of the payload cross every link, as in all_reduce
  const MoveBatch batch = cut({{{64 << 20},
                                DType::kFloat32,
                                on_hosts(0, 4, 1, {partial(Reduction::kSum), replicate()}),
                                on_hosts(0, 4, 1, {replicate(), replicate()})}});
  const ReshardPlan plan = make_plan(batch, test_bed(5, 4));
  EXPECT_LE(plan.seconds(), 1.05 * 1.5 * (256 << 20) / kBytesPerSecond);
}

TEST(Plan, OfASumGoesThroughEveryHostOnce) {
  const MoveBatch batch = cut({{{64 << 20},
                                DType::kFloat32,
                                on_hosts(0, 3, 4, {partial(Reduction::kSum), shard(0)}),
                                on_hosts(3, 2, 4, {replicate(), replicate()})}});
  const ReshardPlan plan = make_plan(batch, test_bed(5, 4));
  EXPECT_NEAR(plan.bound_s, (256 << 20) / kBytesPerSecond, 1e-3);
  EXPECT_LE(plan.seconds(), 1.02 * plan.bound_s);
}

TEST(Plan, NeedsNoWireForWhatIsThere) {
  const Layout everywhere = on_hosts(0, 2, 4, {replicate(), replicate()});
  const MoveBatch batch = cut({{{64}, DType::kFloat32, everywhere, on_hosts(0, 2, 4, {shard(0), shard(0)})}});
  const ReshardPlan plan = make_plan(batch, uniform_network(2, 4));
  EXPECT_TRUE(plan.transfers.empty());
  EXPECT_EQ(plan.seconds(), 0);
  EXPECT_EQ(fault_of(plan, batch), "");
}

TEST(Plan, ServesNeighboursInsideTheHost) {
  const MoveBatch batch = cut({{{64},
                                DType::kFloat32,
                                on_hosts(0, 2, 1, {replicate(), replicate()}),
                                on_hosts(0, 2, 4, {replicate(), replicate()})}});
  const Network network = uniform_network(2, 4);
  for (const Transfer& transfer : make_plan(batch, network).transfers)
    for (Hop hop : transfer.relay.hops) EXPECT_EQ(network.host_of[hop.from], network.host_of[hop.to]);
}

// The checker finds what is made wrong on purpose.
TEST(CheckPlan, FindsFaults) {
  const MoveBatch batch = cut({{{1024},
                                DType::kFloat32,
                                on_hosts(0, 1, 4, {replicate(), shard(0)}),
                                on_hosts(1, 2, 4, {replicate(), replicate()})}});
  const ReshardPlan good = make_plan(batch, uniform_network(3, 4));
  ASSERT_EQ(fault_of(good, batch), "");
  const auto fault_after = [&](auto spoil) {
    ReshardPlan plan = good;
    spoil(plan);
    return fault_of(plan, batch);
  };
  EXPECT_EQ(fault_after([](ReshardPlan& p) { p.transfers.pop_back(); }), "rank 4 lacks the end of a payload");
  EXPECT_EQ(fault_after([](ReshardPlan& p) { p.transfers.push_back(p.transfers[0]); }),
            "rank 4 gets bytes twice, or lacks some");
  EXPECT_EQ(fault_after([](ReshardPlan& p) { p.transfers[0].relay.reduce_chain = {4}; }),
            "a sender holds nothing, or a contributor is missing");
  EXPECT_EQ(fault_after([](ReshardPlan& p) { p.transfers[0].end = 7; }), "a payload is cut within an element");
  EXPECT_EQ(fault_after([](ReshardPlan& p) { p.transfers[0].relay.hops[0].to = 3; }),
            "rank 3 gets what it does not want");
  EXPECT_EQ(fault_after([](ReshardPlan& p) { p.buckets[0].units.clear(); }), "a bucket has another size than it says");
  EXPECT_EQ(fault_after([](ReshardPlan& p) { p.buckets.pop_back(); }).empty(), false);
}

}  // namespace
}  // namespace merak
