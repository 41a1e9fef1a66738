#pragma once
// Makes a schedule by the name of its kind, complete with recompute, communication and reduction.

#include <string>
#include <vector>

#include "pipeline/communication.h"
#include "pipeline/schedule.h"

namespace merak::pipeline {

// "gpipe", "1f1b", "interleaved", "looped-bfs", "zero-bubble", "zbv", "eager", "eager-delayed", "shifted"
const std::vector<std::string>& schedule_kinds();

struct Request {
  std::string kind;
  int stages = 0, ranks = 0, microbatches = 0;
};

// The compute order alone. Throws std::invalid_argument for a kind that does not exist, for numbers of stages and ranks
// that the kind cannot have, and for what check_sizes() refuses.
Schedule compute_order(const Request& request);

struct Extras {
  std::vector<bool> recompute;   // by stage; empty for none
  bool last_recomputes = true;   // false: last_without_recompute
  bool early_recompute = false;  // pre_recompute
  std::vector<Edge> edges;
  int receives_ahead = kReceivesAhead;
  bool communication = true, reduction = true;
};

Schedule complete(const Schedule& order, const Extras& extras);

}  // namespace merak::pipeline
