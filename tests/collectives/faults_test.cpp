// Every algorithm over links on which things go wrong.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harness.h"
#include "transport/faulty_play.h"

namespace merak {
namespace {

using enum OperationKind;

class CollectiveJob final : public Job {
 public:
  CollectiveJob(const CollectiveShape& shape, std::vector<Program> programs, unsigned seed)
      : shape_(shape),
        programs_(std::move(programs)),
        memory_(memory_for(shape, static_cast<int>(programs_.size()), seed)),
        expected_(expected_outputs(shape, memory_)) {}

  std::shared_ptr<Operation> start(Engine& engine, Group& group, int rank) override {
    Request request;
    request.signature = {.kind = shape_.kind, .dtype = DType::kUInt8, .bytes = shape_.bytes};
    request.program = std::make_shared<PreparedProgram>(programs_[rank]);
    request.input = Buffer(memory_[rank].input.data(), memory_[rank].input.size());
    request.output = Buffer(memory_[rank].output.data(), memory_[rank].output.size());
    request.reducer = marked_sum(shape_.element_bytes);
    return engine.start(group, std::move(request));
  }
  void check(int rank) const override {
    const bool has_output = !expected_[rank].empty();
    EXPECT_TRUE(!has_output || memory_[rank].output == expected_[rank])
        << describe({.kind = shape_.kind, .bytes = shape_.bytes});
  }

 private:
  const CollectiveShape shape_;
  const std::vector<Program> programs_;  // by rank
  std::vector<Memory> memory_;
  const std::vector<Message> expected_;
};

std::map<std::string, int>& played() {
  static std::map<std::string, int> count;
  return count;
}

Topology draw_topology(std::mt19937& random) {
  Topology topology;
  const int size = draw(random, 2, 6), hosts = draw(random, 1, size);
  for (int rank = 0; rank < size; ++rank) topology.host_of.push_back(rank * hosts / size);
  return topology;
}

std::unique_ptr<Job> draw_job(std::mt19937& random, const Topology& topology) {
  const std::size_t largest[] = {100, 30'000, 400'000};  // eager, of several messages, granted
  const std::size_t elements = static_cast<std::size_t>(draw(random, 0, largest[draw(random, 0, 2)] / 8));
  CollectiveShape shape{.kind = kCollectives[draw(random, 0, std::size(kCollectives) - 1)], .element_bytes = 8};
  shape.root = draw(random, 0, topology.size() - 1);
  shape.bytes = shape.kind == kBarrier ? 0 : elements * 8;
  auto algorithms = programs_by_algorithm(shape, topology);
  const auto chosen = std::next(algorithms.begin(), draw(random, 0, static_cast<int>(algorithms.size()) - 1));
  ++played()[chosen->first];
  return std::make_unique<CollectiveJob>(shape, std::move(chosen->second), random());
}

Scenario scenario_of(unsigned seed) {
  std::mt19937 random(seed);
  const Topology topology = draw_topology(random);
  Scenario scenario = draw_faults(random, seed, topology.size(), 3000);
  for (int i = draw(random, 1, 4); i > 0; --i) scenario.jobs.push_back(draw_job(random, topology));
  return scenario;
}

std::set<std::string> all_algorithms() {
  std::set<std::string> names;
  for (const Topology& topology : {uniform_topology(4), uniform_topology(3), uniform_topology(2, 2)})
    for (OperationKind kind : kCollectives)
      for (const auto& [name, programs] : programs_by_algorithm({.kind = kind, .bytes = 64}, topology))
        names.insert(name);
  return names;
}

TEST(AlgorithmFaults, RightValuesOrATypedError) {
  expect_right_values_or_typed_errors(scenario_of);
  for (const std::string& name : all_algorithms()) EXPECT_GT(played()[name], 0) << name << " was never drawn";
}

}  // namespace
}  // namespace merak
