// Reshardings of random batches over links on which things go wrong: late, in fragments, cut, or with a rank that dies.

#include <gtest/gtest.h>

#include "collectives/kernels.h"
#include "resharding/moved_tensors.h"
#include "transport/faulty_play.h"

namespace merak {
namespace {

class Resharding final : public Job {
 public:
  Resharding(MoveBatch batch, const Network& network, std::size_t cap)
      : batch_(std::move(batch)), wanted_(batch_, network.ranks()), memory_(wanted_.before()) {
    const ReshardPlan plan = make_plan(batch_, network);
    for (int rank = 0; rank < network.ranks(); ++rank)
      programs_.push_back(std::make_shared<PreparedProgram>(reshard_program(plan, batch_, network.host_of, rank, cap)));
  }

  std::shared_ptr<Operation> start(Engine& engine, Group& group, int rank) override {
    Memory& memory = memory_[static_cast<std::size_t>(rank)];
    Request request;
    request.signature = {.kind = OperationKind::kReshard};
    request.program = programs_[static_cast<std::size_t>(rank)];
    request.input = Buffer(memory.input.data(), memory.input.size());
    request.output = Buffer(memory.output.data(), memory.output.size());
    if (const std::optional<ReducedAs> as = reduced_as(batch_))
      request.reducer = make_reducer(as->dtype, as->reduction, as->divisor);
    return engine.start(group, std::move(request));
  }

  void check(int rank) const override {
    const auto at = static_cast<std::size_t>(rank);
    EXPECT_EQ(memory_[at].output, wanted_.expected()[at].output);
  }

 private:
  const MoveBatch batch_;
  const MovedTensors wanted_;
  std::vector<Memory> memory_;
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
