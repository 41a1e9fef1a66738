#include "sparse/statistics.h"

#include <mutex>

namespace merak {
namespace {

struct Counters {
  std::mutex mutex;
  SparseStatistics so_far;

  static Counters& get() {
    static auto& counters = *new Counters;  // never destroyed: an operation may end while the process does
    return counters;
  }
};

}  // namespace

SparseStatistics SparseStatistics::of_process() {
  std::lock_guard lock(Counters::get().mutex);
  return Counters::get().so_far;
}

void count_announcement(std::uint64_t bytes_sent) {
  std::lock_guard lock(Counters::get().mutex);
  Counters::get().so_far.announced_bytes += bytes_sent;
}

void count_operation(double seconds) {
  std::lock_guard lock(Counters::get().mutex);
  Counters::get().so_far.seconds += seconds;
}

void count_wait(double seconds) {
  std::lock_guard lock(Counters::get().mutex);
  Counters::get().so_far.waited_seconds += seconds;
}

void count_table(const TablePlan& plan, const Shape& shape, int rank, std::uint64_t bytes_sent) {
  std::lock_guard lock(Counters::get().mutex);
  SparseStatistics& all = Counters::get().so_far;
  auto& of_method = all.methods[static_cast<std::size_t>(plan.method)];
  ++of_method.tables;
  of_method.bytes_sent += bytes_sent;
  all.table_rows += shape.table_rows, all.union_rows += plan.union_rows;
  all.own_rows += plan.counts[static_cast<std::size_t>(rank)];
}

}  // namespace merak
