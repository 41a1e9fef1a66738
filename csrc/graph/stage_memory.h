#pragma once
// What a stage takes of its rank's memory, and how much of it has to be recomputed so that it fits.
//
// A stage recomputes a *prefix* of its nodes: their saved bytes go after forward, and come back when forward runs again
// right before backward. The rest, its suffix, keeps what it saves. With P the bytes of the stage's parameters, I those
// of its inputs, A the saved bytes of all its nodes, K those of the suffix and of results that the prefix keeps, and W
// what is alive in a backward beyond A, and with w micro-batches in flight that are whole and c that are checkpointed,
// a stage takes
//
//     state_factor * P + (w + c) * I + w * A + c * K + W
//
// It is the largest sum of memory at one time, not counting what libraries use within an operation. (L equal nodes, w =
// 1 and c = n - 1 give the share that Merak's memory model recomputes, rho = 1 - (M - state_factor P - A - n I) / ((n -
// 1) A), rounded up to nodes.) K falls as the prefix grows, so the least prefix that fits is found by binary search.
//
// The stages of a rank run backward one after the other, so only one of them has whole micro-batches at a time:
//
//     sum of (state_factor * P + (w + c) * (I + K)) + the largest w * (A - K) + W
//
// Those with the most checkpointed micro-batches recompute first, since there a second of recomputation frees the most.

#include <vector>

#include "graph/interval_costs.h"
#include "graph/pipeline_model.h"

namespace merak {

enum class RecomputeKind {
  kLeast,   // as little as fits; with one stage a rank no prefixes take less time
  kNone,    // nothing
  kAll,     // everything, as in GPipe
  kShares,  // of each stage a share of its forward seconds, rounded up to nodes
  kNodes,   // of each stage so many nodes, or all if it has fewer
};

struct Recompute {
  RecomputeKind kind = RecomputeKind::kLeast;
  std::vector<double> shares = {};  // by stage, for kShares
  std::vector<int> nodes = {};      // by stage, for kNodes
};

// Throws std::invalid_argument if it is not given for each stage, or not from 0 on (and a share to 1).
void check_recompute(const Recompute& recompute, const PipelineModel& model);

// Bytes; the prefix ends before node `prefix_end`.
double stage_memory(const IntervalCosts& costs, const PipelineModel& model, int stage, Interval interval,
                    int prefix_end);

// Where the prefix ends, in a stage that has a rank of its own. The whole stage if nothing less, or nothing, fits.
int prefix_end_of(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute, int stage,
                  Interval interval);

// Whether those bytes are within a budget, rounding of doubles aside.
bool fits(double bytes, double budget_bytes);

// The bytes of a rank by the second formula. `stages`: those of the rank; `intervals` and `prefix_ends`: of all stages.
double rank_memory(const IntervalCosts& costs, const PipelineModel& model, const std::vector<int>& stages,
                   const std::vector<Interval>& intervals, const std::vector<int>& prefix_ends);

// Where the prefixes of one rank's stages end, written to `prefix_ends`.
void choose_prefixes(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
                     const std::vector<int>& stages, const std::vector<Interval>& intervals,
                     std::vector<int>& prefix_ends);

}  // namespace merak
