// Prints what plans of resharding cost by their model, and how long making them takes.
//
//   cmake -B build/core -G Ninja && cmake --build build/core --target resharding_model && build/core/resharding_model
//
// The first table: the published cases (tests/resharding/plan_test.cpp), 16 MiB, 5 hosts of 4 ranks, 100 Mbit/s, every
// candidate in units of the lower bound. The second: 1,000 tensors from 64 ranks to 64, others or the same, 8 to a
// host, planned by one thread.

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "resharding/plan.h"

namespace merak {
namespace {

Layout mesh(int first, std::vector<int> shape, std::vector<Placement> placements) {
  Layout layout{.mesh_shape = std::move(shape), .ranks = {}, .placements = std::move(placements)};
  int size = 1;
  for (int extent : layout.mesh_shape) size *= extent;
  for (int rank = first; rank < first + size; ++rank) layout.ranks.push_back(rank);
  return layout;
}

struct Case {
  const char* name;
  std::vector<std::size_t> shape;
  Layout source, target;
};

std::vector<Case> published() {
  const std::vector<std::size_t> shape = {64, 256, 256};
  const Placement r = replicate(), s0 = shard(0), s1 = shard(1), s2 = shard(2);
  return {{"1", shape, mesh(0, {2, 4}, {s0, r}), mesh(8, {2, 4}, {s0, r})},
          {"2", shape, mesh(0, {2, 4}, {r, r}), mesh(8, {2, 4}, {s0, r})},
          {"3", shape, mesh(0, {2, 4}, {s1, r}), mesh(8, {2, 4}, {s0, r})},
          {"4", shape, mesh(0, {2, 4}, {s1, s1}), mesh(8, {2, 4}, {s0, s0})},
          {"5", shape, mesh(0, {2, 4}, {r, s0}), mesh(8, {2, 4}, {s0, r})},
          {"6", {192, 256, 85}, mesh(0, {2, 4}, {s0, r}), mesh(8, {3, 4}, {s0, r})},
          {"7", shape, mesh(0, {1, 4}, {r, s0}), mesh(4, {2, 4}, {r, r})},
          {"9", shape, mesh(0, {2, 4}, {s1, r}), mesh(8, {2, 4}, {s2, r})}};
}

void print_cases() {
  Network network = uniform_network(5, 4);
  for (HostLinks& host : network.hosts) host.out_bytes_per_s = host.in_bytes_per_s = 0.957 * 12.5e6;
  std::printf("| case | bound, s | plan, s | ratio | chosen | candidates |\n|---|---:|---:|---:|---|---|\n");
  for (const Case& one : published()) {
    const ReshardPlan plan = make_plan(cut({{one.shape, DType::kInt32, one.source, one.target}}), network);
    std::printf("| %s | %.3f | %.3f | %.3f | %s, %d in flight |", one.name, plan.bound_s, plan.seconds(),
                plan.seconds() / plan.bound_s, name(plan.chosen.shape), plan.chosen.in_flight);
    for (const Candidate& c : plan.candidates)
      std::printf(" %s%s%s/%d %.3f;", name(c.shape), c.cut ? " cut" : "", c.balanced ? " balanced" : "", c.in_flight,
                  c.seconds / plan.bound_s);
    std::printf(" |\n");
  }
}

struct Workload {
  const char* name;
  std::vector<Move> moves;
  int hosts = 16;  // of 8 ranks
};

// The matrices of 125 layers, eight each.
std::vector<Move> matrices(const Layout& source, const Layout& target, bool all_differ) {
  std::vector<Move> moves;
  for (std::size_t i = 0; i < 1000; ++i) {
    const std::size_t rows = 4096 * (1 + i % 4) + (all_differ ? i : 0);
    moves.push_back({{rows, 4096}, DType::kBFloat16, source, target});
  }
  return moves;
}

std::vector<Workload> workloads() {
  const Placement r = replicate(), s0 = shard(0), s1 = shard(1);
  const Layout rows = mesh(0, {64}, {s0}), columns = mesh(64, {64}, {s1});
  const Layout fsdp_tp = mesh(0, {8, 8}, {strided_shard(0, 8), s0}), tp = mesh(64, {8, 8}, {r, s1});
  return {{"S0 on 64 -> S0 on 64", matrices(rows, mesh(64, {64}, {s0}), false)},
          {"S0 on 64 -> S0 on 64, all shapes differ", matrices(rows, mesh(64, {64}, {s0}), true)},
          {"S0 on 64 -> S1 on 64", matrices(rows, columns, false)},
          {"S0 on 64 -> S1 on 64, all shapes differ", matrices(rows, columns, true)},
          {"8 replicas of S0 on 8 -> S1 on 64", matrices(mesh(0, {8, 8}, {r, s0}), columns, false)},
          {"64 replicas -> 64 replicas", matrices(mesh(0, {64}, {r}), mesh(64, {64}, {r}), false)},
          {"S0 on 64 -> 64 replicas, the same ranks", matrices(rows, mesh(0, {64}, {r}), false)},
          {"64 partial sums -> S0, the same ranks", matrices(mesh(0, {64}, {partial(Reduction::kSum)}), rows, false)},
          {"FSDP 8 x TP 8 -> 8 replicas of TP 8", matrices(fsdp_tp, tp, false)},
          {"FSDP 8 x TP 8 -> 8 replicas of TP 8, all shapes differ", matrices(fsdp_tp, tp, true)},
          {"S0 on 256 -> S1 on 256", matrices(mesh(0, {256}, {s0}), mesh(256, {256}, {s1}), false), 64}};
}

void print_planning_times() {
  std::printf("\n| 1,000 tensors | units | transfers | plan / bound | chosen | planning, s |\n");
  std::printf("|---|---:|---:|---:|---|---:|\n");
  for (const Workload& load : workloads()) {
    const Network network = uniform_network(load.hosts, 8);
    const auto start = std::chrono::steady_clock::now();
    const MoveBatch batch = cut(load.moves);
    const ReshardPlan plan = make_plan(batch, network);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::size_t units = 0;
    for (const Bucket& bucket : plan.buckets) units += bucket.units.size();
    std::printf("| %s | %zu | %zu | %.3f | %s, %d in flight | %.2f |\n", load.name, units, plan.transfers.size(),
                plan.seconds() / plan.bound_s, name(plan.chosen.shape), plan.chosen.in_flight, took.count());
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace merak

int main() {
  merak::print_cases();
  merak::print_planning_times();
}
