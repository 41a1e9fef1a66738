#include "collectives/calibration.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>

#include "collectives/choose.h"
#include "collectives/dissemination_barrier.h"
#include "collectives/kernels.h"
#include "collectives/ring.h"

namespace merak {
namespace {

constexpr int kRepetitions = 4;
// What noise may not fall below: no network and no machine is that fast.
constexpr double kFastestMessage = 1e-7, kFastestByte = 1e-12;

Program ring_shift(const Ring& ring, int messages, std::size_t bytes) {
  Program program;
  for (int i = 0; i < messages; ++i) {
    program.send(ring.next(), {kInput, 0}, bytes);
    program.receive(ring.previous(), {kOutput, 0}, bytes);
  }
  return program;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class Calibration {
 public:
  Calibration(int rank, const Topology& topology, const RunProgram& run)
      : rank_(rank), topology_(topology), run_(run), order_(host_major_order(topology)) {}

  Costs costs() {
    const Measured mine{.message = shortest(1, 0),
                        .messages = shortest(kMeasuredMessages, 0),
                        .less = shortest(1, kMeasuredLess),
                        .more = shortest(1, kMeasuredMore),
                        .reduce = reducing()};
    memory_->mine = mine;
    memory_->all.resize(static_cast<std::size_t>(topology_.size()));
    const CollectiveShape shape{.kind = OperationKind::kAllGather, .bytes = sizeof mine};
    Buffer input, output;
    input.append(&memory_->mine, sizeof mine);
    output.append(memory_->all.data(), memory_->all.size() * sizeof mine);
    run_(choose(shape, rank_, topology_).program, input, output, memory_);
    return costs_of(memory_->all, topology_);
  }

 private:
  double shortest(int messages, std::size_t bytes) {
    const Ring ring{order_, position_in(order_, rank_)};
    Buffer input, output;
    input.append(memory_->from.data(), bytes);
    output.append(memory_->to.data(), bytes);
    double seconds = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kRepetitions; ++i) {
      run_(dissemination_barrier(rank_, topology_.size()), {}, {}, memory_);
      seconds = std::min(seconds, run_(ring_shift(ring, messages, bytes), input, output, memory_));
    }
    return seconds;
  }

  double reducing() {
    const Reducer reducer = make_reducer(DType::kFloat32, Reduction::kSum, 1);
    double seconds = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kRepetitions; ++i) {
      const auto begin = Clock::now();
      reducer.combine(memory_->to.data(), memory_->from.data(), kMeasuredMore / sizeof(float));
      seconds = std::min(seconds, std::chrono::duration<double>(Clock::now() - begin).count());
    }
    return seconds;
  }

  const int rank_;
  const Topology& topology_;
  const RunProgram& run_;
  const std::vector<int> order_;
  struct Memory {
    std::vector<std::byte> from = std::vector<std::byte>(kMeasuredMore), to = from;
    Measured mine = {};
    std::vector<Measured> all = {};  // by rank
  };
  const std::shared_ptr<Memory> memory_ = std::make_shared<Memory>();
};

}  // namespace

Costs calibrate(int rank, const Topology& topology, const RunProgram& run) {
  if (topology.size() == 1) return {};
  return Calibration(rank, topology, run).costs();
}

Costs costs_of(const std::vector<Measured>& measured, const Topology& topology) {
  std::vector<double> work, reduce, latency[2], byte[2];  // [whether it is between hosts]
  for (const Measured& one : measured) {
    work.push_back((one.messages - one.message) / (kMeasuredMessages - 1));
    reduce.push_back(one.reduce / static_cast<double>(kMeasuredMore));
  }
  Costs costs;
  costs.per_message_s = std::max(median(work), kFastestMessage);
  costs.reduce_seconds_per_byte = std::max(median(reduce), kFastestByte);
  const std::vector<int> order = host_major_order(topology);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Ring ring{order, static_cast<int>(i)};
    const auto host = [&](int rank) { return topology.host_of[static_cast<std::size_t>(rank)]; };
    const Measured& link = measured[static_cast<std::size_t>(order[i])];
    const bool between = host(ring.previous()) != host(order[i]);
    latency[between].push_back(std::max(link.message - 2 * costs.per_message_s, kFastestMessage));
    byte[between].push_back(
        std::max((link.more - link.less) / static_cast<double>(kMeasuredMore - kMeasuredLess), kFastestByte));
  }
  if (!byte[0].empty()) costs.latency_inside_s = median(latency[0]), costs.seconds_per_byte_inside = median(byte[0]);
  if (!byte[1].empty()) costs.latency_s = median(latency[1]), costs.seconds_per_byte = median(byte[1]);
  return costs;
}

}  // namespace merak
