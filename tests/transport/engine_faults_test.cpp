// All ranks driven by one thread, in an order drawn from a seed, over links on which things go wrong. Whatever happens,
// an operation ends with the right values or with a typed error, and soon.

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "transport/engine_helpers.h"
#include "transport/faulty_transport.h"
#include "transport/in_process_transport.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

// More seeds for a night: MERAK_TEST_SEEDS=100000.
int seeds() {
  const char* text = std::getenv("MERAK_TEST_SEEDS");
  return text == nullptr ? 1000 : std::atoi(text);
}

int draw(std::mt19937& random, int from, int to) { return std::uniform_int_distribution(from, to)(random); }

// What happens on one seed.
struct Scenario {
  int size = 2;
  Faults faults;
  struct Step {
    const Toy* toy;
    std::size_t count;
    int priority;
  };
  std::vector<Step> steps;
  std::optional<int> victim;  // a rank that is killed
  int killed_after = 0;       // turns

  bool harmless() const { return !victim && !faults.cut; }
};

Scenario scenario_of(unsigned seed) {
  std::mt19937 random(seed);
  Scenario scenario;
  scenario.size = draw(random, 2, 5);
  scenario.faults = {.seed = seed, .short_io = draw(random, 0, 5) * 0.1, .hold_reads = draw(random, 0, 3)};
  const Toy* toys[] = {&kChain, &kSum, &kCarousel};
  for (int i = draw(random, 1, 6); i > 0; --i) {
    // Small ones travel eagerly, large ones are granted; both kinds matter.
    const int largest = draw(random, 0, 1) == 0 ? 200 : 20'000;
    scenario.steps.push_back(
        {toys[draw(random, 0, 2)], static_cast<std::size_t>(draw(random, 0, largest)), draw(random, 0, 2)});
  }
  const int fate = draw(random, 0, 2);
  const int a = draw(random, 0, scenario.size - 1), b = (a + draw(random, 1, scenario.size - 1)) % scenario.size;
  if (fate == 1) scenario.faults.cut = Faults::Cut{a, b, static_cast<std::uint64_t>(draw(random, 0, 100'000))};
  if (fate == 2) scenario.victim = a, scenario.killed_after = draw(random, 0, 1000);
  return scenario;
}

// Plays a scenario. Ranks start their operations at turns of their own, and progress in an order drawn from the seed.
class Play {
 public:
  Play(const Scenario& scenario, unsigned seed)
      : scenario_(scenario), random_(seed), injector_(scenario.faults), fabric_(scenario.size, 20'000) {
    for (int rank = 0; rank < scenario.size; ++rank) {
      Player& player = players_.emplace_back();
      player.engine = std::make_unique<Engine>(Engine::Drive::kManual);
      player.group = player.engine->open({"main", rank, scenario.size}, injector_.wrap(rank, fabric_.transport(rank)));
      for (std::size_t i = 0; i < scenario.steps.size(); ++i)
        player.values.push_back(values_of(rank, scenario.steps[i].count, static_cast<unsigned>(i)));
    }
  }

  void run() {
    const auto until = Clock::now() + 60s;
    for (int turn = 0; !over(); ++turn) {
      ASSERT_LT(Clock::now(), until) << "it hangs";
      if (scenario_.victim && turn == scenario_.killed_after) injector_.kill(*scenario_.victim);
      const int rank = draw(random_, 0, scenario_.size - 1);
      Player& player = players_[rank];
      if (player.operations.size() < scenario_.steps.size() && draw(random_, 0, 3) == 0) start_next(rank);
      trace_.push_back(player.engine->run_once(0s));
    }
  }

  // The right values or a typed error. Returns how many operations failed.
  int check() {
    int failed = 0;
    for (int rank = 0; rank < scenario_.size; ++rank)
      for (std::size_t i = 0; i < scenario_.steps.size(); ++i) failed += !succeeded(rank, i);
    return failed;
  }

  const std::vector<bool>& trace() const { return trace_; }

 private:
  struct Player {
    std::unique_ptr<Engine> engine;
    std::shared_ptr<Group> group;
    std::vector<Values> values;  // by operation
    std::vector<std::shared_ptr<Operation>> operations;
  };

  bool over() const {
    for (const Player& player : players_) {
      if (player.operations.size() < scenario_.steps.size()) return false;
      for (const auto& operation : player.operations)
        if (!operation->done()) return false;
    }
    return true;
  }

  void start_next(int rank) {
    Player& player = players_[rank];
    const std::size_t i = player.operations.size();
    player.operations.push_back(start(*player.engine, *player.group, *scenario_.steps[i].toy, rank, scenario_.size,
                                      player.values[i], scenario_.steps[i].priority));
  }

  bool succeeded(int rank, std::size_t i) {
    Player& player = players_[rank];
    const Scenario::Step& step = scenario_.steps[i];
    try {
      finish(*player.operations[i]);
    } catch (const NetworkError& error) {
      EXPECT_FALSE(scenario_.harmless()) << error.what();
      return false;
    }
    const auto given = values_of_all(scenario_.size, step.count, static_cast<unsigned>(i));
    EXPECT_TRUE(player.values[i] == step.toy->expected(rank, given)) << "rank " << rank << ", operation " << i;
    return true;
  }

  const Scenario& scenario_;
  std::mt19937 random_;
  FaultInjector injector_;
  InProcessFabric fabric_;
  std::vector<Player> players_;
  std::vector<bool> trace_;
};

TEST(EngineFaults, RightValuesOrATypedError) {
  int failed = 0, harmless = 0;
  for (int seed = 0; seed < seeds() && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Scenario scenario = scenario_of(seed);
    Play play(scenario, seed);
    play.run();
    if (testing::Test::HasFatalFailure()) return;
    failed += play.check() > 0;
    harmless += scenario.harmless();
  }
  EXPECT_GT(failed, seeds() / 10);  // the faults did strike
  EXPECT_GT(harmless, seeds() / 10);
}

TEST(EngineFaults, TheSameSeedIsTheSameRun) {
  for (unsigned seed : {1u, 2u, 3u}) {
    const Scenario scenario = scenario_of(seed);
    std::vector<std::vector<bool>> traces;
    for (int i = 0; i < 2; ++i) {
      Play play(scenario, seed);
      play.run();
      traces.push_back(play.trace());
    }
    EXPECT_EQ(traces[0], traces[1]) << seed;
  }
}

}  // namespace
}  // namespace merak
