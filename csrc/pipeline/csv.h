#pragma once
// Schedules as the CSV of torch.distributed.pipelining: a row a rank, a cell an action (action.h), empty cells skipped.
//
//     0F0,0F1,,0B0,0F2,0B1,0B2
//     1F0,1B0,1F1,1B1,1F2,1B2
//
// Two actions that may overlap are one cell: (0F3;5B1)OVERLAP_F_B.
//
// Reading takes what torch writes, with communication or without, and what merak writes. torch's lists have no WAIT: it
// waits directly before the consumer, where reading puts a WAIT. What merak does not do is dropped, and said:
// UNSHARD, RESHARD (weights stay whole), WAIT_SEND_F, WAIT_SEND_B, WAIT_REDUCE_GRAD (the executor sees to that).
// The edges are those that messages cross, and the chain inside ranks; without messages, the whole chain.
//
// The text may be hostile: sizes are bounded by its length, and what is wrong throws std::invalid_argument.

#include <string>
#include <string_view>
#include <vector>

#include "pipeline/schedule.h"

namespace merak::pipeline {

struct Csv {
  Schedule schedule;
  std::vector<std::string> notes;  // what was dropped
};

// The result is in bounds (check_bounds), but not checked. Throws std::invalid_argument naming row and cell.
Csv read_csv(std::string_view text);

// Everything.
std::string write_csv(const Schedule& schedule);

// What torch can run: the compute order alone, or with SEND and RECV (and torch's WAIT_SEND at the end of each list,
// its WAIT_REDUCE_GRAD after each REDUCE_GRAD). Throws std::invalid_argument, with the reason, for R and for edges that
// skip stages, which torch has not.
std::string write_torch_csv(const Schedule& schedule, bool communication);

}  // namespace merak::pipeline
