#include "data/deck.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <stdexcept>

namespace merak::data {
namespace {

// What a deck does, said slowly: sets, and a pass over all steps from the first.
struct SlowDeck {
  std::vector<double> values;
  PacingTable table;
  std::size_t batch;

  std::set<std::uint32_t> admitted(std::uint64_t step) const {
    std::set<std::uint32_t> samples;
    const double difficulty = table[std::min<std::size_t>(step, table.size() - 1)];
    for (std::uint32_t sample = 0; sample < values.size(); ++sample)
      if (values[sample] <= difficulty) samples.insert(sample);
    return samples;
  }
};

AdmissionOrder order_of(const SlowDeck& slow) {
  Admission admission(slow.values.size());
  admission.limit_values(slow.values.data(), slow.table);
  return admission.order();
}

SlowDeck random_case(unsigned seed) {
  std::mt19937_64 random(seed);
  SlowDeck slow;
  slow.batch = 1 + random() % 8;
  slow.values.resize(slow.batch * 2 + random() % 60);
  for (double& value : slow.values) value = static_cast<double>(random() % 50);
  slow.values[0] = 99;  // never admitted
  std::vector<double> sorted = slow.values;
  std::sort(sorted.begin(), sorted.end());
  double difficulty = sorted[slow.batch - 1];
  for (std::size_t steps = random() % 30; slow.table.size() <= steps; difficulty += static_cast<double>(random() % 4))
    slow.table.push_back(std::min(difficulty, 60.0));
  return slow;
}

TEST(Deck, DrawsEachAdmittedSampleOnceAPass) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    const SlowDeck slow = random_case(seed);
    Deck deck(order_of(slow), slow.batch, seed);
    std::set<std::uint32_t> drawn;
    std::uint64_t pass = 0;
    for (std::uint64_t step = 0; step < 80; ++step) {
      const std::set<std::uint32_t> admitted = slow.admitted(step);
      ASSERT_EQ(deck.order().admitted_at(step), admitted.size()) << "seed " << seed;
      const Deck::Batch batch = deck.draw(step);
      ASSERT_EQ(batch.samples.size(), slow.batch);
      if (admitted.size() - drawn.size() < slow.batch) drawn.clear(), ++pass;
      ASSERT_EQ(batch.pass, pass) << "seed " << seed << ", step " << step;
      for (std::uint32_t sample : batch.samples) {
        ASSERT_TRUE(admitted.contains(sample)) << "seed " << seed << ", step " << step;
        ASSERT_TRUE(drawn.insert(sample).second) << "twice: seed " << seed << ", step " << step;
      }
    }
  }
}

TEST(Deck, GivesTheSameBatchWhateverWasDrawnBefore) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    const SlowDeck slow = random_case(seed);
    Deck in_order(order_of(slow), slow.batch, 5), anyhow(order_of(slow), slow.batch, 5);
    std::vector<Deck::Batch> batches;
    for (std::uint64_t step = 0; step < 200; ++step) batches.push_back(in_order.draw(step));
    std::mt19937_64 random(seed);
    for (int i = 0; i < 100; ++i) {
      const std::uint64_t step = random() % batches.size();
      const Deck::Batch batch = anyhow.draw(step);
      ASSERT_EQ(batch.samples, batches[step].samples) << "seed " << seed << ", step " << step;
      ASSERT_EQ(batch.pass, batches[step].pass) << "seed " << seed << ", step " << step;
    }
  }
}

TEST(Deck, DrawsUniformly) {  // chi squared: which of 10 samples comes first
  Admission all(10);
  std::vector<double> counts(10, 0);
  for (std::uint64_t seed = 0; seed < 5000; ++seed) ++counts[Deck(all.order(), 1, seed).draw(0).samples[0]];
  double chi_squared = 0;
  for (double count : counts) chi_squared += std::pow(count - 500, 2) / 500;
  EXPECT_LT(chi_squared, 27.9);  // one in a thousand is above, with 9 degrees of freedom
}

TEST(Deck, RefusesBatchesThatAreLargerThanWhatIsAdmitted) {
  const std::vector<double> values = {1, 2, 3, 4};
  Admission admission(4);
  admission.limit_values(values.data(), {2, 4});
  EXPECT_THROW(Deck(admission.order(), 3, 0), std::invalid_argument);
  EXPECT_THROW(Deck(admission.order(), 0, 0), std::invalid_argument);
  EXPECT_EQ(Deck(admission.order(), 2, 0).draw(0).samples.size(), 2);
}

TEST(Admission, WaitsForTheLatestOfSeveralMetrics) {
  const std::vector<double> first = {1, 2, 3, 9}, second = {4, 1, 1, 1};
  Admission admission(4);
  admission.limit_values(first.data(), {1, 2, 3});
  admission.limit_percentiles(second.data(), {75, 75, 75, 99, 100}, 0);  // sample 0 is the last: step 4
  const AdmissionOrder order = admission.order();
  EXPECT_EQ(order.samples, (std::vector<std::uint32_t>{1, 2, 0}));
  EXPECT_EQ(order.admitted, (std::vector<std::uint64_t>{0, 1, 2, 2, 3}));
}

TEST(Admission, RefusesPacingsThatFallAndValuesThatAreNone) {
  const std::vector<double> values = {1, std::nan("")};
  Admission admission(2);
  EXPECT_THROW(admission.limit_values(values.data(), {5}), std::invalid_argument);
  EXPECT_THROW(admission.limit_percentiles(values.data(), {5}, 0), std::invalid_argument);
  EXPECT_THROW(admission.limit_values(values.data(), {}), std::invalid_argument);
  EXPECT_THROW(admission.limit_values(values.data(), {5, 4}), std::invalid_argument);
}

}  // namespace
}  // namespace merak::data
