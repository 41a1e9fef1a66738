#include "resharding/balance.h"

#include <algorithm>
#include <numeric>

namespace merak {
namespace {

constexpr int kRounds = 8;

class Balance {
 public:
  Balance(const std::vector<std::vector<Flow>>& ways, const std::vector<double>& bytes_per_s)
      : ways_(ways), bytes_per_s_(bytes_per_s), load_s_(bytes_per_s.size(), 0), way_(ways.size(), 0) {}

  std::vector<std::uint32_t> run() {
    const std::vector<std::uint32_t> order = longest_first();
    for (std::uint32_t job : order) choose(job);
    bool changed = true;
    for (int round = 0; changed && round < kRounds; ++round) {
      changed = false;
      for (std::uint32_t job : order) {
        const std::uint32_t before = way_[job];
        add(ways_[job][before], -1);
        choose(job);
        changed = changed || way_[job] != before;
      }
    }
    return std::move(way_);
  }

 private:
  struct Cost {
    double busiest_s = 0, squares = 0;

    bool is_less(const Cost& other) const {
      constexpr double kRounding = 1 - 1e-9;
      if (busiest_s < other.busiest_s * kRounding) return true;
      return busiest_s * kRounding <= other.busiest_s && squares < other.squares * kRounding;
    }
  };

  double seconds(const Flow& flow, const Use& use) const {
    return flow.bytes * use.weight / bytes_per_s_[use.resource];
  }

  std::vector<std::uint32_t> longest_first() const {
    std::vector<double> longest;
    for (const std::vector<Flow>& job : ways_) {
      double most = 0;
      for (const Use& use : job.front().uses) most = std::max(most, seconds(job.front(), use));
      longest.push_back(most);
    }
    std::vector<std::uint32_t> order(ways_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return longest[a] > longest[b]; });
    return order;
  }

  Cost cost_of(const Flow& flow) const {
    Cost cost;
    for (const Use& use : flow.uses) {
      const double before = load_s_[use.resource], after = before + seconds(flow, use);
      cost.busiest_s = std::max(cost.busiest_s, after);
      cost.squares += after * after - before * before;
    }
    return cost;
  }

  void choose(std::uint32_t job) {
    const std::vector<Flow>& ways = ways_[job];
    Cost least = cost_of(ways[way_[job]]);
    for (std::uint32_t way = 0; way < ways.size(); ++way) {
      const Cost cost = cost_of(ways[way]);
      if (cost.is_less(least)) least = cost, way_[job] = way;
    }
    add(ways[way_[job]], 1);
  }

  void add(const Flow& flow, double sign) {
    for (const Use& use : flow.uses) load_s_[use.resource] += sign * seconds(flow, use);
  }

  const std::vector<std::vector<Flow>>& ways_;
  const std::vector<double>& bytes_per_s_;
  std::vector<double> load_s_;      // by resource
  std::vector<std::uint32_t> way_;  // by job
};

}  // namespace

std::vector<std::uint32_t> balanced_ways(const std::vector<std::vector<Flow>>& ways,
                                         const std::vector<double>& bytes_per_s) {
  return Balance(ways, bytes_per_s).run();
}

}  // namespace merak
