#pragma once
// In what order to do jobs that keep resources busy, when each may be done in several ways: so that all are done
// soonest.
//
// *List scheduling*: take the jobs in some order; each begins as soon as all resources of its way are free of the jobs
// before it, and keeps all of them busy until it ends. The last end is the *makespan*. What is looked for is the order
// and the ways:
//
//   as given        the caller's order, each job in the way in which it ends soonest
//   longest first   so too, the longest job first
//   soonest first   of all jobs left the one that can begin soonest; of these the one whose resources are wanted most,
//                   in the way whose resources are wanted least; seeded restarts break ties by chance
//   exactly         up to kFewJobs jobs: all orders and ways, depth first, but for those that cannot be better than the
//                   best so far: because of what a resource still has to do, or since two jobs in a row without a
//                   common resource come out the same in either order
//
// It ends as soon as the makespan is the lower bound. Nothing depends on the time of day or on addresses: ranks with
// the same input come to the same result.
//
// Source: units as jobs and links as resources are Alpa's (arXiv 2211.05322); its search weighs neither latency nor
// bandwidth.

#include <cstdint>
#include <vector>

namespace merak {

struct ListOption {  // a way to do a job
  double seconds = 0;
  std::vector<int> resources;  // numbers from 0, each once
};

using ListJob = std::vector<ListOption>;  // at least one

struct ListSchedule {
  std::vector<std::uint32_t> order;   // of jobs
  std::vector<std::uint32_t> option;  // by job
  double makespan_s = 0;

  bool operator==(const ListSchedule&) const = default;
};

inline constexpr std::size_t kFewJobs = 12;

ListSchedule list_schedule(const std::vector<ListJob>& jobs, double bound_s);

// The makespan of an order and ways.
double makespan_of(const std::vector<ListJob>& jobs, const std::vector<std::uint32_t>& order,
                   const std::vector<std::uint32_t>& option);

}  // namespace merak
