#include "pipeline/make.h"

#include <stdexcept>

#include "pipeline/eager.h"
#include "pipeline/gpipe.h"
#include "pipeline/interleaved.h"
#include "pipeline/looped_bfs.h"
#include "pipeline/one_f_one_b.h"
#include "pipeline/recompute.h"
#include "pipeline/reduction.h"
#include "pipeline/shifted.h"
#include "pipeline/zbv.h"
#include "pipeline/zero_bubble.h"

namespace merak::pipeline {
namespace {

struct Kind {
  std::string name;
  int stages_a_rank;  // 0 for any number
  Schedule (*make)(const Request&);
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"gpipe", 1, [](const Request& r) { return gpipe(r.stages, r.microbatches); }},
      {"1f1b", 1, [](const Request& r) { return one_f_one_b(r.stages, r.microbatches); }},
      {"interleaved", 0, [](const Request& r) { return interleaved(r.stages, r.ranks, r.microbatches); }},
      {"looped-bfs", 0, [](const Request& r) { return looped_bfs(r.stages, r.ranks, r.microbatches); }},
      {"zero-bubble", 0, [](const Request& r) { return zero_bubble(r.stages, r.ranks, r.microbatches); }},
      {"zbv", 2, [](const Request& r) { return zbv(r.ranks, r.microbatches); }},
      {"eager", 1, [](const Request& r) { return eager(r.stages, r.microbatches); }},
      {"eager-delayed", 1, [](const Request& r) { return with_delayed_weights(eager(r.stages, r.microbatches)); }},
      {"shifted", 1, [](const Request& r) { return shifted(r.stages, r.microbatches); }},
  };
  return all;
}

}  // namespace

const std::vector<std::string>& schedule_kinds() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Kind& kind : kinds()) all.push_back(kind.name);
    return all;
  }();
  return names;
}

Schedule compute_order(const Request& request) {
  check_sizes(request.stages, request.ranks, request.microbatches);
  std::string names;
  for (const Kind& kind : kinds()) {
    names += (names.empty() ? "" : ", ") + kind.name;
    if (kind.name != request.kind) continue;
    if (kind.stages_a_rank != 0 && request.stages != kind.stages_a_rank * request.ranks)
      throw std::invalid_argument("the schedule " + kind.name + " has " + std::to_string(kind.stages_a_rank) +
                                  (kind.stages_a_rank == 1 ? " stage" : " stages") + " a rank, so " +
                                  std::to_string(kind.stages_a_rank * request.ranks) + " for " +
                                  std::to_string(request.ranks) + " ranks, not " + std::to_string(request.stages) +
                                  "; interleaved, looped-bfs and zero-bubble take any number");
    return kind.make(request);
  }
  throw std::invalid_argument("there is no schedule '" + request.kind + "'; there are " + names);
}

Schedule complete(const Schedule& order, const Extras& extras) {
  Schedule schedule = order;
  if (!extras.recompute.empty()) schedule = with_recompute(schedule, extras.recompute);
  if (!extras.last_recomputes) schedule = last_without_recompute(schedule);
  if (extras.communication) schedule = with_communication(schedule, extras.edges, extras.receives_ahead);
  if (extras.early_recompute) schedule = pre_recompute(schedule);
  return extras.reduction ? with_reduction(schedule) : schedule;
}

}  // namespace merak::pipeline
