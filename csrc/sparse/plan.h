#pragma once
// Which method reduces one table, and what each would cost.
//
// A pure function of what all ranks know: the bitmaps, the topology, the costs. All ranks make the same plan.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "collectives/costs.h"
#include "collectives/topology.h"
#include "sparse/contributions.h"
#include "sparse/deal.h"

namespace merak {

enum class Method : std::uint8_t { kAuto = 0, kDense, kGather, kPacked, kBalanced, kSketchExact, kSketch };
inline constexpr Method kExactMethods[] = {Method::kDense, Method::kGather, Method::kPacked, Method::kBalanced,
                                           Method::kSketchExact};
inline constexpr Method kMethods[] = {Method::kDense,    Method::kGather,      Method::kPacked,
                                      Method::kBalanced, Method::kSketchExact, Method::kSketch};

// Of kSketchExact: enough for peeling to succeed, also with few rows.
inline constexpr double kCellsARow = 1.4;

const char* name(Method method);
// Throws std::invalid_argument, naming those that there are.
Method method_named(const std::string& name);

struct Priced {
  Method method;
  double seconds;       // by its formula
  std::uint64_t bytes;  // that the busiest rank sends or receives
};

struct TablePlan {
  Method method = Method::kAuto;  // the one to use
  std::vector<Priced> priced;     // all exact ones
  std::size_t union_rows = 0;
  std::vector<std::uint32_t> counts;  // by rank: rows that it contributes
  Deal deal;                          // of the balanced one
  Costs costs;                        // that prices were made with
};

struct Shape {  // of one table
  std::size_t table_rows, row_bytes, element_bytes;
  std::uint64_t sizes = 0;  // of the tensor, hashed: tables of the same rows may be tensors of different sizes; of
                            // tables that are split over ranks, along which dimension
};

// `asked`: kAuto for the cheapest, but never kSketchExact, of which kPacked sends less, nor kPacked and kDense of
// 16-bit types, of which kBalanced sends less in the same way (as_everyones.h).
TablePlan plan_table(const UnionRows& rows, const Shape& shape, Method asked, const Topology& topology,
                     const Costs& costs);

// How much is sent, and added up, at a time.
struct Grain {
  std::size_t chunk_bytes = 128 * 1024;  // of one rank: long enough to be worth a message, short enough to overlap
  std::size_t part_bytes = 256 * 1024;   // of all ranks
};
// On a device every step costs a launch, and nothing has to fit a cache.
inline constexpr Grain kDeviceGrain{4 * 1024 * 1024, 32 * 1024 * 1024};

// What this rank does. Not for kSketchExact and kSketch, which are all_reduce.h's own affair.
Program program_of(const TablePlan& plan, const Contributions& contributions, const Shape& shape,
                   const Topology& topology, const Grain& grain = {});

}  // namespace merak
