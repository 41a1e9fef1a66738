#include "graph/pipeline_model.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace merak {
namespace {

void require(bool holds, const std::string& problem) {
  if (!holds) throw std::invalid_argument("the pipeline to cut for: " + problem);
}

}  // namespace

double PipelineModel::period_s(double work_s, double receive_s, double return_s) const {
  return hides_communication ? std::max({work_s, receive_s, return_s}) : work_s + receive_s + return_s;
}

double PipelineModel::step_s(double passes_s, double longest_period_s) const {
  const double v = stages_per_rank();
  return (passes_s + (micro_batches * v - 1) * longest_period_s) / v;
}

void check_model(const PipelineModel& model) {
  require(model.stages() > 0, "it has no stages");
  require(model.in_flight.size() == model.rank_of.size(), "micro-batches in flight are given for " +
                                                              std::to_string(model.in_flight.size()) + " stages of " +
                                                              std::to_string(model.stages()));
  require(model.micro_batches > 0, "it has no micro-batches");
  std::vector<int> stages_of(model.ranks(), 0);
  for (int rank : model.rank_of) {
    require(rank >= 0 && rank < model.ranks(),
            "rank " + std::to_string(rank) + " of " + std::to_string(model.ranks()) + " has a stage");
    ++stages_of[rank];
  }
  for (int rank = 0; rank < model.ranks(); ++rank) {
    require(stages_of[rank] == stages_of[0], "rank " + std::to_string(rank) + " has " +
                                                 std::to_string(stages_of[rank]) + " stages, rank 0 " +
                                                 std::to_string(stages_of[0]));
    require(model.budget_bytes[rank] > 0, "rank " + std::to_string(rank) + " has no memory");
  }
  for (const InFlight& one : model.in_flight)
    require(one.whole >= 1 && one.checkpointed >= 0, "at a stage no micro-batch is in flight");
  require(model.state_factor >= 0 && model.latency_s >= 0 && model.bytes_per_s > 0,
          "a factor or latency is negative, or a bandwidth is not positive");
}

PipelineModel one_forward_one_backward(int stages, int micro_batches) {
  PipelineModel model;
  model.rank_of.clear(), model.in_flight.clear();
  for (int s = 0; s < stages; ++s) {
    model.rank_of.push_back(s);
    model.in_flight.push_back({.whole = 1, .checkpointed = std::min(micro_batches, stages - s) - 1});
  }
  model.micro_batches = micro_batches;
  model.budget_bytes.assign(stages, std::numeric_limits<double>::infinity());
  return model;
}

}  // namespace merak
