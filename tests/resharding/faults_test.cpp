// Reshardings of random batches over links on which things go wrong: late, in fragments, cut, or with a rank that dies.

#include <gtest/gtest.h>

#include "collectives/kernels.h"
#include "resharding/moved_tensors.h"
#include "transport/faulty_play.h"

namespace merak {
namespace {

// A side of a rank's memory as tensors that lie apart, each aligned as tensors are.
class TensorsApart {
 public:
  TensorsApart(const Message& memory, const LocalTensors& local) {
    for (std::size_t tensor = 0; tensor + 1 < local.offsets.size(); ++tensor) {
      const auto begin = memory.begin() + static_cast<std::ptrdiff_t>(local.offsets[tensor]);
      tensors_.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(local.bytes(tensor)));
    }
  }

  Buffer buffer() {
    Buffer all;
    for (Message& tensor : tensors_) all.append(tensor.data(), tensor.size());
    return all;
  }

  Message joined() const {
    Message all;
    for (const Message& tensor : tensors_) all.insert(all.end(), tensor.begin(), tensor.end());
    return all;
  }

 private:
  std::vector<Message> tensors_;
};

class Resharding final : public Job {
 public:
  Resharding(MoveBatch batch, const Network& network, std::size_t cap)
      : batch_(std::move(batch)), wanted_(batch_, network.ranks()) {
    const ReshardPlan plan = make_plan(batch_, network);
    const std::vector<Memory> before = wanted_.before();
    for (int rank = 0; rank < network.ranks(); ++rank) {
      const Memory& memory = before[static_cast<std::size_t>(rank)];
      inputs_.emplace_back(memory.input, source_tensors(batch_, rank));
      outputs_.emplace_back(memory.output, target_tensors(batch_, rank));
      programs_.push_back(std::make_shared<PreparedProgram>(reshard_program(plan, batch_, network.host_of, rank, cap)));
    }
  }

  std::shared_ptr<Operation> start(Engine& engine, Group& group, int rank) override {
    Request request;
    request.signature = {.kind = OperationKind::kReshard};
    request.program = programs_[static_cast<std::size_t>(rank)];
    request.input = inputs_[static_cast<std::size_t>(rank)].buffer();
    request.output = outputs_[static_cast<std::size_t>(rank)].buffer();
    if (const std::optional<ReducedAs> as = reduced_as(batch_))
      request.reducer = make_reducer(as->dtype, as->reduction, as->divisor);
    return engine.start(group, std::move(request));
  }

  void check(int rank) const override {
    const auto at = static_cast<std::size_t>(rank);
    EXPECT_EQ(outputs_[at].joined(), wanted_.expected()[at].output);
  }

 private:
  const MoveBatch batch_;
  const MovedTensors wanted_;
  std::vector<TensorsApart> inputs_, outputs_;  // by rank
  std::vector<std::shared_ptr<PreparedProgram>> programs_;
};

Scenario scenario_of(unsigned seed) {
  std::mt19937 random(seed);
  const int size = draw(random, 2, 8);
  Scenario scenario = draw_faults(random, seed, size, 250);
  RandomMoves moves(seed, size);
  for (int jobs = draw(random, 2, 5); jobs > 0; --jobs) {
    const Network network = moves.network();
    if (std::optional<MoveBatch> batch = random_batch(moves))
      scenario.jobs.push_back(std::make_unique<Resharding>(std::move(*batch), network, moves.draw(96, 2048)));
  }
  return scenario;
}

TEST(ReshardFaults, RightValuesOrATypedError) { expect_right_values_or_typed_errors(scenario_of); }

}  // namespace
}  // namespace merak
