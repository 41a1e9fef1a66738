#pragma once
// A schedule: for each rank, the list of its actions in order; where each stage lives; which values cross stages.
//
// It is plain data. Generators (one file an algorithm: gpipe.h, one_f_one_b.h, interleaved.h, looped_bfs.h,
// zero_bubble.h, zbv.h, eager.h, shifted.h) write the *compute order*: F, B, I, W. Passes turn a schedule into another:
// recompute.h adds R, communication.h adds SEND, RECV and WAIT, reduction.h adds REDUCE_GRAD. check.h says what is
// wrong with one, memory.h counts what it keeps alive, simulate.h says how long it takes, csv.h reads and writes it.

#include <string>
#include <vector>

#include "pipeline/action.h"

namespace merak::pipeline {

struct Edge {
  int producer = 0, consumer = 0;  // stages, producer < consumer
  bool gradient = true;            // false: nothing comes back (masks, ids)

  bool operator==(const Edge&) const = default;
};

using ActionList = std::vector<Action>;

struct Schedule {
  int microbatches = 0;
  std::vector<int> rank_of_stage;
  std::vector<ActionList> ranks;
  std::vector<Edge> edges;  // sorted, each once

  int stages() const { return static_cast<int>(rank_of_stage.size()); }
  bool operator==(const Schedule&) const = default;
};

inline constexpr int kMostStages = 4096, kMostMicrobatches = 1 << 20, kMostOfBoth = 1 << 24;

// Throws std::invalid_argument unless 1 <= ranks, stages is a multiple of ranks, 1 <= microbatches, and all are below
// the bounds above.
void check_sizes(int stages, int ranks, int microbatches);

// Stage s on rank s mod ranks.
std::vector<int> loop_placement(int stages, int ranks);
// Two stages a rank, down and up again: stages s and 2 * ranks - 1 - s on rank s.
std::vector<int> v_placement(int ranks);

// Stage s to stage s + 1.
std::vector<Edge> chain(int stages);

// A schedule without actions, with the edges of a chain.
Schedule empty_schedule(std::vector<int> rank_of_stage, int ranks, int microbatches);

// Throws std::invalid_argument unless every stage, peer, micro-batch and rank that the schedule names exists, every
// action is on its stage's rank, and every edge leads to a later stage. The passes and the simulator need this.
void check_bounds(const Schedule& schedule);

// Sorted, each once. Throws std::invalid_argument for an edge that does not lead from a stage to a later one.
std::vector<Edge> checked_edges(std::vector<Edge> edges, int stages);

bool has_communication(const Schedule& schedule);

// By stage * microbatches + micro-batch: whether its forward keeps only the stage's inputs, since there is an R for it.
std::vector<bool> checkpointed(const Schedule& schedule);

// "rank 1, position 4, 2F0"
std::string place(const Schedule& schedule, std::size_t rank, std::size_t position);

}  // namespace merak::pipeline
