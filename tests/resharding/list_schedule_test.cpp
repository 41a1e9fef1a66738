#include "resharding/list_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

namespace merak {
namespace {

std::vector<ListJob> random_jobs(unsigned seed, std::size_t count, int resources) {
  std::mt19937 random(seed);
  std::vector<ListJob> jobs(count);
  for (ListJob& job : jobs)
    for (unsigned option = 0; option <= random() % 2; ++option) {
      std::vector<int> uses;
      for (int resource = 0; resource < resources; ++resource)
        if (random() % 2 == 0) uses.push_back(resource);
      job.push_back({.seconds = 1.0 + random() % 6, .resources = uses});
    }
  return jobs;
}

// All orders, all ways.
double least_makespan(const std::vector<ListJob>& jobs) {
  std::vector<std::uint32_t> order(jobs.size());
  std::iota(order.begin(), order.end(), 0);
  std::size_t ways = 1;
  for (const ListJob& job : jobs) ways *= job.size();
  double least = std::numeric_limits<double>::infinity();
  do {
    for (std::size_t way = 0; way < ways; ++way) {
      std::vector<std::uint32_t> option;
      std::size_t rest = way;
      for (const ListJob& job : jobs) option.push_back(rest % job.size()), rest /= job.size();
      least = std::min(least, makespan_of(jobs, order, option));
    }
  } while (std::next_permutation(order.begin(), order.end()));
  return least;
}

TEST(ListSchedule, OfFewJobsIsTheBestOfAll) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    const std::vector<ListJob> jobs = random_jobs(seed, seed % 6, 4);
    const ListSchedule schedule = list_schedule(jobs, 0);
    ASSERT_EQ(schedule.makespan_s, jobs.empty() ? 0 : least_makespan(jobs)) << "seed " << seed;
  }
}

TEST(ListSchedule, DoesEveryJobOnceAndTakesAsLongAsItSays) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    const std::vector<ListJob> jobs = random_jobs(seed, 1 + seed, 7);
    const ListSchedule schedule = list_schedule(jobs, 0);
    std::vector<std::uint32_t> all = schedule.order;
    std::sort(all.begin(), all.end());
    for (std::uint32_t job = 0; job < jobs.size(); ++job) ASSERT_EQ(all.at(job), job) << "seed " << seed;
    ASSERT_EQ(makespan_of(jobs, schedule.order, schedule.option), schedule.makespan_s) << "seed " << seed;
    ASSERT_EQ(list_schedule(jobs, 0), schedule) << "seed " << seed;
  }
}

// Four senders, each with a job for each of four receivers: all can be busy all the time.
TEST(ListSchedule, KeepsAllLinksBusy) {
  std::vector<ListJob> jobs;
  for (int from = 0; from < 4; ++from)
    for (int to = 0; to < 4; ++to) jobs.push_back({{.seconds = 1, .resources = {from, 4 + to}}});
  EXPECT_EQ(list_schedule(jobs, 4).makespan_s, 4);
}

}  // namespace
}  // namespace merak
