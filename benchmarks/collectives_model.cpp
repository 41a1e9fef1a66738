// Prints the tables of docs/collectives.md: what each algorithm costs by its formula and by the simulator, and which
// one is chosen when.
//
//   cmake -B build/core -G Ninja && cmake --build build/core --target collectives_model && build/core/collectives_model

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "collectives/simulated.h"

namespace merak {
namespace {

using enum OperationKind;

constexpr OperationKind kKinds[] = {kBroadcast, kReduce,  kAllReduce, kAllGather, kReduceScatter,
                                    kAllToAll,  kScatter, kGather,    kBarrier};
constexpr std::size_t kKiB = 1024, kMiB = 1024 * kKiB;

// V is the whole message: what every rank passes to all_reduce, what all_gather gives, what reduce_scatter takes.
CollectiveShape shape_of(OperationKind kind, std::size_t message_bytes, int size) {
  const bool whole = kind == kBroadcast || kind == kReduce || kind == kAllReduce;
  const std::size_t bytes = kind == kBarrier ? 0 : whole ? message_bytes : message_bytes / size;
  return {.kind = kind, .bytes = bytes / 4 * 4, .element_bytes = 4};
}

std::string size_text(std::size_t bytes) {
  return bytes >= kMiB ? std::to_string(bytes / kMiB) + " MiB" : std::to_string(bytes / kKiB) + " KiB";
}

std::string hosts_text(int hosts, int ranks) {
  return ranks == 1 ? std::to_string(hosts) : std::to_string(hosts) + " x " + std::to_string(ranks);
}

// A thousand ranks that each send to all others make too many messages to be worth a line.
bool is_worth_simulating(const std::string& algorithm, int size) {
  return size <= 64 || (algorithm.rfind("direct", 0) != 0 && algorithm.rfind("pairwise", 0) != 0);
}

void print_prices(OperationKind kind) {
  std::printf("\n| %s | hosts | V | formula, ms | simulated, ms | ratio |\n|---|---:|---:|---:|---:|---:|\n",
              name(kind));
  for (const auto& [hosts, ranks] : {std::pair{2, 1}, {8, 1}, {64, 1}, {1024, 1}, {4, 2}})
    for (std::size_t bytes : {kKiB, 64 * kKiB, 64 * kMiB}) {
      const Topology topology = uniform_topology(hosts, ranks);
      const CollectiveShape shape = shape_of(kind, bytes, topology.size());
      if ((shape.bytes == 0) != (kind == kBarrier) || (kind == kBarrier && bytes != kKiB)) continue;
      for (const Choice& choice : candidates(shape, 0, topology)) {
        if (!is_worth_simulating(choice.algorithm, topology.size())) continue;
        const double simulated = simulate_algorithm(choice.algorithm, shape, topology, {}).seconds;
        std::printf("| %s | %s | %s | %.3f | %.3f | %.2f |\n", choice.algorithm.c_str(),
                    hosts_text(hosts, ranks).c_str(), kind == kBarrier ? "-" : size_text(bytes).c_str(),
                    1e3 * choice.seconds, 1e3 * simulated, choice.seconds / simulated);
        std::fflush(stdout);
      }
    }
}

void print_choices() {
  std::printf("\n| collective | hosts |");
  const std::vector<std::size_t> sizes = {kKiB, 4 * kKiB, 16 * kKiB, 64 * kKiB, 256 * kKiB, kMiB, 64 * kMiB};
  for (std::size_t bytes : sizes) std::printf(" %s |", size_text(bytes).c_str());
  std::printf("\n|---|---:|---|---|---|---|---|---|---|\n");
  for (OperationKind kind : {kBroadcast, kReduce, kAllReduce, kAllGather, kReduceScatter, kAllToAll})
    for (const auto& [hosts, ranks] : {std::pair{2, 1}, {4, 1}, {8, 1}, {64, 1}, {4, 2}}) {
      std::printf("| %s | %s |", name(kind), hosts_text(hosts, ranks).c_str());
      for (std::size_t bytes : sizes) {
        const Topology topology = uniform_topology(hosts, ranks);
        const std::string algorithm = choose(shape_of(kind, bytes, topology.size()), 0, topology).algorithm;
        std::printf(" %s |", algorithm.substr(0, algorithm.find(' ')).c_str());
      }
      std::printf("\n");
    }
}

}  // namespace
}  // namespace merak

int main() {
  merak::print_choices();
  for (merak::OperationKind kind : merak::kKinds) merak::print_prices(kind);
}
