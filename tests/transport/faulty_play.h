#pragma once
// All ranks of a group driven by one thread, in an order drawn from a seed, over links on which things go wrong.

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "transport/engine.h"
#include "transport/engine_helpers.h"
#include "transport/faulty_transport.h"
#include "transport/in_process_transport.h"

namespace merak {

// More seeds for a night: MERAK_TEST_SEEDS=100000.
inline int seeds() {
  const char* text = std::getenv("MERAK_TEST_SEEDS");
  return text == nullptr ? 1000 : std::atoi(text);
}

inline int draw(std::mt19937& random, int from, int to) { return std::uniform_int_distribution(from, to)(random); }

// A collective that all ranks run, with the memory of all of them.
class Job {
 public:
  virtual ~Job() = default;
  virtual std::shared_ptr<Operation> start(Engine& engine, Group& group, int rank) = 0;
  // The rank has what it should have, now that it is done.
  virtual void check(int rank) const = 0;
};

// What happens on one seed.
struct Scenario {
  int size = 2;
  Faults faults;
  std::optional<int> victim;  // a rank that is killed
  int killed_after = 0;       // turns
  std::vector<std::unique_ptr<Job>> jobs;

  bool harmless() const { return !victim && !faults.cut; }
};

// A group of `size` ranks whose links are slow and short of breath, and a connection cut or a rank killed in two of
// three scenarios, within that many turns. Without jobs.
inline Scenario draw_faults(std::mt19937& random, unsigned seed, int size, int turns) {
  Scenario scenario;
  scenario.size = size;
  scenario.faults = {.seed = seed, .short_io = draw(random, 0, 5) * 0.1, .hold_reads = draw(random, 0, 3)};
  const int fate = draw(random, 0, 2);
  const int a = draw(random, 0, size - 1), b = (a + draw(random, 1, size - 1)) % size;
  if (fate == 1) scenario.faults.cut = Faults::Cut{a, b, static_cast<std::uint64_t>(draw(random, 0, 100'000))};
  if (fate == 2) scenario.victim = a, scenario.killed_after = draw(random, 0, turns);
  return scenario;
}

// Plays a scenario. Ranks start their operations at turns of their own, and progress in an order drawn from the seed.
class FaultyPlay {
 public:
  FaultyPlay(const Scenario& scenario, unsigned seed)
      : scenario_(scenario), random_(seed), injector_(scenario.faults), fabric_(scenario.size, 20'000) {
    for (int rank = 0; rank < scenario.size; ++rank) {
      Rank& one = ranks_.emplace_back();
      one.engine = std::make_unique<Engine>(Engine::Drive::kManual);
      one.group = one.engine->open({"main", rank, scenario.size}, injector_.wrap(rank, fabric_.transport(rank)));
    }
  }

  void run() {
    const auto until = Clock::now() + std::chrono::seconds(60);
    for (int turn = 0; !over(); ++turn) {
      ASSERT_LT(Clock::now(), until) << "it hangs";
      if (scenario_.victim && turn == scenario_.killed_after) injector_.kill(*scenario_.victim);
      const int rank = draw(random_, 0, scenario_.size - 1);
      Rank& one = ranks_[rank];
      if (one.operations.size() < scenario_.jobs.size() && draw(random_, 0, 3) == 0)
        one.operations.push_back(scenario_.jobs[one.operations.size()]->start(*one.engine, *one.group, rank));
      trace_.push_back(one.engine->run_once(std::chrono::seconds(0)));
    }
  }

  // The right values or a typed error. Returns how many operations failed.
  int check() {
    int failed = 0;
    for (int rank = 0; rank < scenario_.size; ++rank)
      for (std::size_t i = 0; i < scenario_.jobs.size(); ++i) failed += !succeeded(rank, i);
    return failed;
  }

  const std::vector<bool>& trace() const { return trace_; }

 private:
  struct Rank {
    std::unique_ptr<Engine> engine;
    std::shared_ptr<Group> group;
    std::vector<std::shared_ptr<Operation>> operations;
  };

  bool over() const {
    for (const Rank& one : ranks_) {
      if (one.operations.size() < scenario_.jobs.size()) return false;
      for (const auto& operation : one.operations)
        if (!operation->done()) return false;
    }
    return true;
  }

  bool succeeded(int rank, std::size_t i) {
    SCOPED_TRACE("rank " + std::to_string(rank) + ", operation " + std::to_string(i));
    try {
      finish(*ranks_[rank].operations[i]);
    } catch (const NetworkError& error) {
      EXPECT_FALSE(scenario_.harmless()) << error.what();
      return false;
    }
    scenario_.jobs[i]->check(rank);
    return true;
  }

  const Scenario& scenario_;
  std::mt19937 random_;
  FaultInjector injector_;
  InProcessFabric fabric_;
  std::vector<Rank> ranks_;
  std::vector<bool> trace_;
};

// Plays the scenario of every seed: whatever happens, operations end with the right values or a typed error, and soon.
inline void expect_right_values_or_typed_errors(Scenario (*scenario_of)(unsigned seed)) {
  int failed = 0, harmless = 0;
  for (int seed = 0; seed < seeds() && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Scenario scenario = scenario_of(static_cast<unsigned>(seed));
    FaultyPlay play(scenario, static_cast<unsigned>(seed));
    play.run();
    if (testing::Test::HasFatalFailure()) return;
    failed += play.check() > 0;
    harmless += scenario.harmless();
  }
  EXPECT_GT(failed, seeds() / 10);  // the faults did strike
  EXPECT_GT(harmless, seeds() / 10);
}

}  // namespace merak
