#include "pipeline/schedule.h"

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace merak::pipeline {
namespace {

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

std::string within(int most) { return " is not between 1 and " + std::to_string(most); }

void check_action(const Schedule& schedule, std::size_t rank, std::size_t position) {
  const Action& action = schedule.ranks[rank][position];
  const auto complain = [&](const std::string& what) { refuse(place(schedule, rank, position) + ": " + what); };
  const auto is_stage = [&](int stage) { return stage >= 0 && stage < schedule.stages(); };
  if (!is_stage(action.stage)) complain("there are " + std::to_string(schedule.stages()) + " stages");
  const int lives_on = schedule.rank_of_stage[action.stage];
  if (lives_on != static_cast<int>(rank)) complain("the stage is on rank " + std::to_string(lives_on));
  if (is_communication(action.kind) && !is_stage(action.peer))
    complain("there is no stage " + std::to_string(action.peer) + " at the other end");
  const bool has_microbatch = action.microbatch >= 0 && action.microbatch < schedule.microbatches;
  if (action.kind != ActionKind::kReduceGrad && !has_microbatch)
    complain("there are " + std::to_string(schedule.microbatches) + " micro-batches");
}

}  // namespace

void check_sizes(int stages, int ranks, int microbatches) {
  if (stages < 1 || stages > kMostStages) refuse("stages: " + std::to_string(stages) + within(kMostStages));
  if (ranks < 1 || ranks > stages)
    refuse("ranks: " + std::to_string(ranks) + " for " + std::to_string(stages) + " stages");
  if (stages % ranks != 0)
    refuse("every rank gets the same number of stages: " + std::to_string(stages) + " stages are no multiple of " +
           std::to_string(ranks) + " ranks");
  if (microbatches < 1 || microbatches > kMostMicrobatches)
    refuse("micro-batches: " + std::to_string(microbatches) + within(kMostMicrobatches));
  if (microbatches > kMostOfBoth / stages)
    refuse(std::to_string(stages) + " stages of " + std::to_string(microbatches) + " micro-batches are more than " +
           std::to_string(kMostOfBoth));
}

std::vector<int> loop_placement(int stages, int ranks) {
  std::vector<int> rank_of_stage;
  for (int stage = 0; stage < stages; ++stage) rank_of_stage.push_back(stage % ranks);
  return rank_of_stage;
}

std::vector<int> v_placement(int ranks) {
  std::vector<int> rank_of_stage;
  for (int stage = 0; stage < 2 * ranks; ++stage) rank_of_stage.push_back(std::min(stage, 2 * ranks - 1 - stage));
  return rank_of_stage;
}

std::vector<Edge> chain(int stages) {
  std::vector<Edge> edges;
  for (int stage = 0; stage + 1 < stages; ++stage) edges.push_back({.producer = stage, .consumer = stage + 1});
  return edges;
}

Schedule empty_schedule(std::vector<int> rank_of_stage, int ranks, int microbatches) {
  const int stages = static_cast<int>(rank_of_stage.size());
  return {.microbatches = microbatches,
          .rank_of_stage = std::move(rank_of_stage),
          .ranks = std::vector<ActionList>(ranks),
          .edges = chain(stages)};
}

void check_bounds(const Schedule& schedule) {
  for (int rank : schedule.rank_of_stage)
    if (rank < 0 || rank >= static_cast<int>(schedule.ranks.size()))
      refuse("a stage is on rank " + std::to_string(rank) + " of " + std::to_string(schedule.ranks.size()));
  checked_edges(schedule.edges, schedule.stages());
  for (std::size_t rank = 0; rank < schedule.ranks.size(); ++rank)
    for (std::size_t position = 0; position < schedule.ranks[rank].size(); ++position)
      check_action(schedule, rank, position);
}

std::vector<Edge> checked_edges(std::vector<Edge> edges, int stages) {
  const auto ends = [](const Edge& edge) { return std::tuple(edge.producer, edge.consumer, !edge.gradient); };
  for (const Edge& edge : edges)
    if (edge.producer < 0 || edge.consumer <= edge.producer || edge.consumer >= stages)
      refuse("an edge from stage " + std::to_string(edge.producer) + " to stage " + std::to_string(edge.consumer) +
             ": edges lead to a later one of " + std::to_string(stages) + " stages");
  std::sort(edges.begin(), edges.end(), [&](const Edge& a, const Edge& b) { return ends(a) < ends(b); });
  // Of two with the same ends, the first has a gradient if either does.
  const auto same = [](const Edge& a, const Edge& b) { return a.producer == b.producer && a.consumer == b.consumer; };
  edges.erase(std::unique(edges.begin(), edges.end(), same), edges.end());
  return edges;
}

bool has_communication(const Schedule& schedule) {
  return std::any_of(schedule.ranks.begin(), schedule.ranks.end(), [](const ActionList& actions) {
    return std::any_of(actions.begin(), actions.end(), [](const Action& a) { return is_communication(a.kind); });
  });
}

std::vector<bool> checkpointed(const Schedule& schedule) {
  std::vector<bool> result(schedule.stages() * schedule.microbatches);
  for (const ActionList& actions : schedule.ranks)
    for (const Action& action : actions)
      if (action.kind == ActionKind::kRecompute)
        result[action.stage * schedule.microbatches + action.microbatch] = true;
  return result;
}

std::string place(const Schedule& schedule, std::size_t rank, std::size_t position) {
  return "rank " + std::to_string(rank) + ", position " + std::to_string(position) + ", " +
         text(schedule.ranks[rank][position]);
}

}  // namespace merak::pipeline
