// The engine over links on which things go wrong, with small hand-made programs.

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "transport/faulty_play.h"

namespace merak {
namespace {

class ToyJob final : public Job {
 public:
  ToyJob(const Toy& toy, int size, std::size_t count, unsigned seed, int priority)
      : toy_(toy), given_(values_of_all(size, count, seed)), values_(given_), priority_(priority) {}

  std::shared_ptr<Operation> start(Engine& engine, Group& group, int rank) override {
    return merak::start(engine, group, toy_, rank, static_cast<int>(given_.size()), values_[rank], priority_);
  }
  void check(int rank) const override { EXPECT_TRUE(values_[rank] == toy_.expected(rank, given_)); }

 private:
  const Toy& toy_;
  const std::vector<Values> given_;
  std::vector<Values> values_;
  const int priority_;
};

Scenario scenario_of(unsigned seed) {
  std::mt19937 random(seed);
  Scenario scenario = draw_faults(random, seed, draw(random, 2, 5), 1000);
  const Toy* toys[] = {&kChain, &kSum, &kCarousel};
  for (int i = draw(random, 1, 6); i > 0; --i) {
    // Small ones travel eagerly, large ones are granted; both kinds matter.
    const auto count = static_cast<std::size_t>(draw(random, 0, draw(random, 0, 1) == 0 ? 200 : 20'000));
    const Toy& toy = *toys[draw(random, 0, 2)];
    scenario.jobs.push_back(std::make_unique<ToyJob>(toy, scenario.size, count, i, draw(random, 0, 2)));
  }
  return scenario;
}

TEST(EngineFaults, RightValuesOrATypedError) { expect_right_values_or_typed_errors(scenario_of); }

TEST(EngineFaults, TheSameSeedIsTheSameRun) {
  for (unsigned seed : {1u, 2u, 3u}) {
    std::vector<std::vector<bool>> traces;
    for (int i = 0; i < 2; ++i) {
      const Scenario scenario = scenario_of(seed);
      FaultyPlay play(scenario, seed);
      play.run();
      traces.push_back(play.trace());
    }
    EXPECT_EQ(traces[0], traces[1]) << seed;
  }
}

}  // namespace
}  // namespace merak
