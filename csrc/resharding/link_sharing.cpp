#include "resharding/link_sharing.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <utility>

namespace merak {
namespace {

constexpr double kRounding = 1e-9;  // of a quantity: so little is nothing

class FlowSimulation {
 public:
  FlowSimulation(const std::vector<Flow>& flows, const std::vector<double>& bytes_per_s, int window)
      : flows_(flows),
        bytes_per_s_(bytes_per_s),
        spans_(flows.size()),
        rate_(flows.size(), 0),
        free_(bytes_per_s),
        weight_(bytes_per_s.size(), 0) {
    for (std::size_t f = 0; f < flows.size(); ++f) {
      left_.push_back(flows[f].bytes);
      awaited_lanes_.push_back(flows[f].lanes.size());
      for (std::size_t lane : flows[f].lanes) {
        if (lane >= queue_.size()) queue_.resize(lane + 1);
        queue_[lane].push_back(f);
      }
    }
    admitted_.assign(queue_.size(), 0);
    room_.assign(queue_.size(), window);
  }

  std::vector<Span> run() {
    for (std::size_t f = 0; f < flows_.size(); ++f)
      if (awaited_lanes_[f] == 0) begin(f);
    for (std::size_t lane = 0; lane < queue_.size(); ++lane) admit(lane);
    while (!active_.empty() || !trailing_.empty()) {
      set_rates();
      go_to(next_event());
      end_trailing();
    }
    return std::move(spans_);
  }

 private:
  void begin(std::size_t f) {
    spans_[f].start_s = now_;
    active_.push_back(f);
  }

  void admit(std::size_t lane) {
    for (; room_[lane] > 0 && admitted_[lane] < queue_[lane].size(); --room_[lane]) {
      const std::size_t f = queue_[lane][admitted_[lane]++];
      if (--awaited_lanes_[f] == 0) begin(f);
    }
  }

  double next_event() const {
    double at = trailing_.empty() ? std::numeric_limits<double>::infinity() : trailing_.top().first;
    for (std::size_t f : active_) at = std::min(at, now_ + left_[f] / rate_[f]);
    return at;
  }

  // Flows that end within rounding of that time end then, so that some flow does.
  void go_to(double at) {
    std::vector<std::size_t> still;
    for (std::size_t f : active_) {
      if (now_ + left_[f] / rate_[f] <= at * (1 + kRounding)) {
        trailing_.emplace(at + flows_[f].latency_s + flows_[f].trailing_bytes / rate_[f], f);
      } else {
        left_[f] -= rate_[f] * (at - now_);
        still.push_back(f);
      }
    }
    active_ = std::move(still);
    now_ = at;
  }

  void end_trailing() {
    while (!trailing_.empty() && trailing_.top().first <= now_ * (1 + kRounding)) {
      const std::size_t f = trailing_.top().second;
      spans_[f].end_s = trailing_.top().first;
      trailing_.pop();
      for (std::size_t lane : flows_[f].lanes) ++room_[lane], admit(lane);
    }
  }

  // Raises all rates until a resource is used up, holds the flows through it, and goes on with the others.
  void set_rates() {
    std::vector<std::size_t> rising = active_, touched;
    for (std::size_t f : rising)
      for (const Use& use : flows_[f].uses) {
        if (weight_[use.resource] == 0) touched.push_back(use.resource);
        weight_[use.resource] += use.weight;
      }
    while (!rising.empty()) {
      const double level = lowest_level(touched) * (1 + kRounding);
      std::vector<std::size_t> held, still;
      for (std::size_t f : rising) (is_held(flows_[f], level) ? held : still).push_back(f);
      for (std::size_t f : held) hold(f, level);
      rising = std::move(still);
    }
    for (std::size_t resource : touched) free_[resource] = bytes_per_s_[resource], weight_[resource] = 0;
  }

  // The rate at which the first resource is used up by the flows through it that still rise.
  double lowest_level(const std::vector<std::size_t>& touched) const {
    double level = std::numeric_limits<double>::infinity();
    for (std::size_t resource : touched)
      if (weight_[resource] > kRounding) level = std::min(level, free_[resource] / weight_[resource]);
    return level;
  }

  bool is_held(const Flow& flow, double level) const {
    return std::any_of(flow.uses.begin(), flow.uses.end(), [&](const Use& use) {
      return weight_[use.resource] > kRounding && free_[use.resource] <= level * weight_[use.resource];
    });
  }

  void hold(std::size_t f, double level) {
    rate_[f] = level;
    for (const Use& use : flows_[f].uses) {
      weight_[use.resource] -= use.weight;
      free_[use.resource] = std::max(0.0, free_[use.resource] - level * use.weight);
    }
  }

  using Ending = std::pair<double, std::size_t>;  // when, which flow

  const std::vector<Flow>& flows_;
  const std::vector<double>& bytes_per_s_;
  double now_ = 0;
  std::vector<Span> spans_;
  std::vector<double> left_, rate_;         // by flow: bytes, bytes/s
  std::vector<std::size_t> awaited_lanes_;  // by flow
  std::vector<std::size_t> active_;         // flows with bytes left, in order of beginning
  std::priority_queue<Ending, std::vector<Ending>, std::greater<>> trailing_;
  std::vector<std::vector<std::size_t>> queue_;  // by lane
  std::vector<std::size_t> admitted_;            // by lane: how many of its queue
  std::vector<int> room_;                        // by lane
  std::vector<double> free_, weight_;            // by resource: what is left of it, and what the rising flows take
};

}  // namespace

std::vector<Span> share_links(const std::vector<Flow>& flows, const std::vector<double>& bytes_per_s, int window) {
  return FlowSimulation(flows, bytes_per_s, window).run();
}

}  // namespace merak
