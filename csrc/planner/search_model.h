#pragma once
// A model as a line of nodes, to be put on a line of devices: what the search for stages is told.
//
// One replica of the model has `devices` devices in a line. A *stage* is an interval of points (interval_costs.h) on a
// *shape*: a number of neighbouring devices, and what nodes cost where they share the work in one way. Several shapes
// may have as many devices. Stages take the devices in their own order, the first of them those from 0 on, and all
// devices are used. `behind` a stage are those after it: the last has none.
//
// A stage's pass and period are those of pipeline_model.h, with one stage a rank; its bytes are those of
// stage_memory.h, with the micro-batches in flight that so many stages behind it ask for. What happens *once* a step,
// synchronisation of gradients and the optimizer, is shared by the m micro-batches: pass and period both have a m-th.
//
//     step = sum of passes + (m - 1) * largest period
//
// The *tolerance* is the share of a step that the search may leave on the table, for the sake of its own time.

#include <limits>
#include <vector>

#include "graph/interval_costs.h"
#include "graph/pipeline_model.h"
#include "graph/stage_memory.h"

namespace merak::planner {

struct StageShape {
  int devices = 1;
  // Of each device of the shape, with seconds of communication inside it. All shapes have the same nodes and points.
  const IntervalCosts* costs = nullptr;
  double latency_s = 0, bytes_per_s = std::numeric_limits<double>::infinity();  // of what stages receive and return
  double budget_bytes = std::numeric_limits<double>::infinity();                // of each device
  double once_s_per_byte = 0;                                                   // of a device's parameters
  double state_factor = 4;
  // By the number of devices before it, 0 to all of them: whether a stage may begin there. Empty: anywhere.
  std::vector<bool> may_begin = {};
};

struct SearchModel {
  int devices = 1, max_stages = 1, micro_batches = 1;
  bool hides_communication = false;
  std::vector<InFlight> in_flight = {{}};           // by the number of stages behind, for max_stages
  RecomputeKind recompute = RecomputeKind::kLeast;  // kLeast, kNone or kAll
  double tolerance = 0;
  // Numbers of stages whose steps take more than 1 + `within` times the best are left out.
  double within = std::numeric_limits<double>::infinity();
  double most_s = std::numeric_limits<double>::infinity();  // steps that are longer are left out
};

// What is given, not searched for.
struct Pinned {
  int stages = 0;                    // 0: any number
  std::vector<int> boundaries = {};  // points where a stage has to begin, ascending
  std::vector<int> shapes = {};      // by stage, -1 for any; empty: any. Needs the number of stages
};

// Throws std::invalid_argument that names what is wrong.
void check_search(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned);

}  // namespace merak::planner
