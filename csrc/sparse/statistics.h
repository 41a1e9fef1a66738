#pragma once
// What the sparse all-reduces of this process have done so far.

#include <array>
#include <cstddef>
#include <cstdint>

#include "sparse/plan.h"

namespace merak {

struct SparseStatistics {
  struct OfMethod {
    std::uint64_t tables = 0;      // that were reduced by it
    std::uint64_t bytes_sent = 0;  // payload, by this rank
  };
  std::array<OfMethod, std::size(kMethods) + 1> methods = {};  // by Method
  std::uint64_t announced_bytes = 0;                           // sent, to find out who has what
  std::uint64_t table_rows = 0, union_rows = 0, own_rows = 0;  // of all tables together

  double seconds = 0;         // from the start to the end of each operation, on CPU
  double waited_seconds = 0;  // of it, that a thread spent in wait(): what the operations did not overlap with

  static SparseStatistics of_process();
};

// Thread-safe.
void count_announcement(std::uint64_t bytes_sent);
void count_operation(double seconds);
void count_wait(double seconds);
void count_table(const TablePlan& plan, const Shape& shape, int rank, std::uint64_t bytes_sent);

}  // namespace merak
