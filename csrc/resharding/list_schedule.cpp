#include "resharding/list_schedule.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace merak {
namespace {

constexpr double kCloseEnough = 1 + 1e-6;       // to the bound
constexpr std::size_t kMostLooks = 20'000'000;  // at a job and a way, in all restarts: a few tenths of a second
constexpr std::size_t kMostRestarts = 64;
constexpr std::size_t kMostBranches = 20'000;

// SplitMix64: the same numbers everywhere, unlike the distributions of the standard library.
class Dice {
 public:
  std::uint64_t roll() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_ = 0;
};

std::size_t resources_of(const std::vector<ListJob>& jobs) {
  int most = -1;
  for (const ListJob& job : jobs)
    for (const ListOption& option : job)
      for (int resource : option.resources) most = std::max(most, resource);
  return static_cast<std::size_t>(most + 1);
}

// Until when each resource is busy.
class Clock {
 public:
  explicit Clock(std::size_t resources) : free_s_(resources, 0) {}

  double start(const ListOption& option) const {
    double start = 0;
    for (int resource : option.resources) start = std::max(start, free_s_[resource]);
    return start;
  }

  double place(const ListOption& option) {
    const double end = start(option) + option.seconds;
    for (int resource : option.resources) free_s_[resource] = end;
    return end;
  }

  double free_s(std::size_t resource) const { return free_s_[resource]; }

 private:
  std::vector<double> free_s_;
};

double shortest(const ListJob& job) {
  double least = job.front().seconds;
  for (const ListOption& option : job) least = std::min(least, option.seconds);
  return least;
}

class Search {
 public:
  Search(const std::vector<ListJob>& jobs, double bound_s)
      : jobs_(jobs), resources_(resources_of(jobs)), bound_s_(bound_s), demand_(resources_, 0), must_(resources_, 0) {
    best_.makespan_s = std::numeric_limits<double>::infinity();
    for (std::size_t job = 0; job < jobs.size(); ++job) add_must(must_, job, 1);
    for (double seconds : must_) bound_s_ = std::max(bound_s_, seconds);
    for (const ListJob& job : jobs) {
      shortest_.push_back(shortest(job));
      ways_ += job.size();
      for (const ListOption& option : job)
        for (int resource : option.resources) demand_[resource] += option.seconds / static_cast<double>(job.size());
    }
  }

  ListSchedule run() {
    keep(in_order(as_given()));
    if (!is_done()) keep(in_order(longest_first()));
    const std::size_t looks = std::max<std::size_t>(1, ways_ * jobs_.size() / 2);
    const std::size_t restarts = std::min(kMostRestarts, kMostLooks / looks);
    for (std::size_t i = 0; i < restarts && !is_done(); ++i) keep(soonest_first(i > 0));
    if (jobs_.size() <= kFewJobs && !is_done()) search_exactly();
    return std::move(best_);
  }

 private:
  bool is_done() const { return best_.makespan_s <= bound_s_ * kCloseEnough; }

  void keep(ListSchedule schedule) {
    if (schedule.makespan_s < best_.makespan_s) best_ = std::move(schedule);
  }

  std::vector<std::uint32_t> as_given() const {
    std::vector<std::uint32_t> order(jobs_.size());
    std::iota(order.begin(), order.end(), 0);
    return order;
  }

  std::vector<std::uint32_t> longest_first() const {
    std::vector<std::uint32_t> order = as_given();
    std::stable_sort(order.begin(), order.end(),
                     [this](std::uint32_t a, std::uint32_t b) { return shortest_[a] > shortest_[b]; });
    return order;
  }

  ListSchedule in_order(std::vector<std::uint32_t> order) const {
    ListSchedule schedule{.order = std::move(order), .option = std::vector<std::uint32_t>(jobs_.size())};
    Clock clock(resources_);
    for (std::uint32_t job : schedule.order) {
      schedule.option[job] = soonest_end(jobs_[job], clock);
      schedule.makespan_s = std::max(schedule.makespan_s, clock.place(jobs_[job][schedule.option[job]]));
    }
    return schedule;
  }

  // Of two that end at once, the one whose resources others want less.
  std::uint32_t soonest_end(const ListJob& job, const Clock& clock) const {
    std::uint32_t best = 0;
    double best_end = std::numeric_limits<double>::infinity(), best_wanted = 0;
    for (std::uint32_t option = 0; option < job.size(); ++option) {
      const double end = clock.start(job[option]) + job[option].seconds, wanted = most_wanted(job[option]);
      if (end < best_end || (end == best_end && wanted < best_wanted))
        best = option, best_end = end, best_wanted = wanted;
    }
    return best;
  }

  double most_wanted(const ListOption& option) const {
    double most = 0;
    for (int resource : option.resources) most = std::max(most, demand_[resource]);
    return most;
  }

  ListSchedule soonest_first(bool random) {
    ListSchedule schedule;
    schedule.option.resize(jobs_.size());
    std::vector<std::uint32_t> left(jobs_.size());
    std::iota(left.begin(), left.end(), 0);
    Clock clock(resources_);
    while (!left.empty()) {
      const Pick pick = soonest_start(left, clock, random);
      const std::uint32_t job = left[pick.place];
      schedule.order.push_back(job);
      schedule.option[job] = pick.option;
      schedule.makespan_s = std::max(schedule.makespan_s, clock.place(jobs_[job][pick.option]));
      left.erase(left.begin() + static_cast<std::ptrdiff_t>(pick.place));
    }
    return schedule;
  }

  struct Pick {
    std::size_t place = 0;
    std::uint32_t option = 0;
    double start = std::numeric_limits<double>::infinity();
    double rank = 0;  // of jobs that can start at once, the highest is taken; of a job's options, the lowest
  };

  Pick soonest_start(const std::vector<std::uint32_t>& left, const Clock& clock, bool random) {
    Pick best;
    for (std::size_t place = 0; place < left.size(); ++place) {
      Pick pick = soonest_option(jobs_[left[place]], clock, random);
      pick.place = place;
      if (pick.start < best.start || (pick.start == best.start && pick.rank > best.rank)) best = pick;
    }
    return best;
  }

  Pick soonest_option(const ListJob& job, const Clock& clock, bool random) {
    Pick best;
    for (std::uint32_t option = 0; option < job.size(); ++option) {
      const double start = clock.start(job[option]);
      const double rank = random ? static_cast<double>(dice_.roll() >> 11) : most_wanted(job[option]);
      if (start < best.start || (start == best.start && rank < best.rank)) best = {0, option, start, rank};
    }
    return best;
  }

  void search_exactly() {
    ListSchedule schedule;
    schedule.option.resize(jobs_.size());
    branch(schedule, std::vector<bool>(jobs_.size(), false), Clock(resources_), must_);
  }

  void add_must(std::vector<double>& must, std::size_t job, double sign) const {
    for (int resource : jobs_[job].front().resources) {
      double least = std::numeric_limits<double>::infinity();
      for (const ListOption& option : jobs_[job]) {
        const bool uses =
            std::find(option.resources.begin(), option.resources.end(), resource) != option.resources.end();
        least = std::min(least, uses ? option.seconds : 0);
      }
      must[resource] += sign * least;
    }
  }

  bool can_win(const ListSchedule& schedule, const Clock& clock, const std::vector<double>& must) const {
    const double limit = best_.makespan_s * (1 - 1e-12);
    if (schedule.makespan_s >= limit) return false;
    for (std::size_t resource = 0; resource < resources_; ++resource)
      if (clock.free_s(resource) + must[resource] >= limit) return false;
    return true;
  }

  bool commutes_with_last(const ListSchedule& schedule, std::uint32_t job, const ListOption& option) const {
    if (schedule.order.empty() || schedule.order.back() < job) return false;
    const std::uint32_t last = schedule.order.back();
    const std::vector<int>& before = jobs_[last][schedule.option[last]].resources;
    return std::none_of(option.resources.begin(), option.resources.end(), [&before](int resource) {
      return std::find(before.begin(), before.end(), resource) != before.end();
    });
  }

  void branch(const ListSchedule& schedule, const std::vector<bool>& done, const Clock& clock,
              const std::vector<double>& must) {
    if (schedule.order.size() == jobs_.size()) return keep(schedule);
    for (std::uint32_t job = 0; job < jobs_.size(); ++job) {
      if (done[job]) continue;
      for (std::uint32_t option = 0; option < jobs_[job].size(); ++option) {
        if (is_done() || ++branches_ > kMostBranches) return;
        if (commutes_with_last(schedule, job, jobs_[job][option])) continue;
        ListSchedule longer = schedule;
        Clock later = clock;
        std::vector<double> less = must;
        std::vector<bool> more = done;
        longer.order.push_back(job);
        longer.option[job] = option;
        longer.makespan_s = std::max(longer.makespan_s, later.place(jobs_[job][option]));
        add_must(less, job, -1);
        more[job] = true;
        if (can_win(longer, later, less)) branch(longer, more, later, less);
      }
    }
  }

  const std::vector<ListJob>& jobs_;
  const std::size_t resources_;
  double bound_s_;
  std::vector<double> shortest_;  // by job
  std::vector<double> demand_;    // by resource: seconds, if every job's ways were taken equally often
  std::vector<double> must_;      // by resource: seconds that it is busy in whatever ways the jobs are done
  std::size_t ways_ = 0, branches_ = 0;
  Dice dice_;
  ListSchedule best_;
};

}  // namespace

double makespan_of(const std::vector<ListJob>& jobs, const std::vector<std::uint32_t>& order,
                   const std::vector<std::uint32_t>& option) {
  Clock clock(resources_of(jobs));
  double makespan = 0;
  for (std::uint32_t job : order) makespan = std::max(makespan, clock.place(jobs[job][option[job]]));
  return makespan;
}

ListSchedule list_schedule(const std::vector<ListJob>& jobs, double bound_s) {
  if (jobs.empty()) return {};
  return Search(jobs, bound_s).run();
}

}  // namespace merak
