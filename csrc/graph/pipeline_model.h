#pragma once
// The pipeline that a cut is made for, and what a step takes on it.
//
// S *stages* run on p *ranks*, v = S/p on each. A step runs m *micro-batches* through all stages, forward and backward.
// For a micro-batch stage s works t = f + b + r seconds: forward, backward, and forward again for what it recomputes.
// A value goes straight from the stage that makes it to every stage that uses it, and its gradient comes back. So stage
// s *receives* for latency + bytes / bandwidth seconds, and *returns* gradients for as long, over links that carry both
// directions at once.
//
//   pass of a stage    t + receive + return: what the stage adds to the way of the first micro-batch, there and back
//   period of a rank   what each further micro-batch adds where that rank is the slowest, summed over its stages:
//                        hidden communication:   the largest of t, receive and return
//                        exposed communication:  t + receive + return
//   step               (sum of passes + (m v - 1) * largest period) / v
//
// which for v = 1 is the sum of passes + (m - 1) * the largest period; for v > 1 the pipeline fills in stages that are
// v times shorter. Communication is hidden where a schedule keeps enough micro-batches in flight (eager 1F1B). Under
// plain 1F1B it is exposed, even if sends are asynchronous: stage s starts a micro-batch when an earlier one comes
// back, so k + 1 micro-batches take the way from stage s to s + k and back, whose communication is part of it. Charging
// each stage what it receives bounds all these loops from above.
//
// *In flight* at a stage are the micro-batches whose activations live there at once: `whole` of them with everything
// that backward needs (that of the one which runs backward, and more if the schedule recomputes ahead or does not
// recompute some), `checkpointed` with what the recomputed part leaves. stage_memory.h says what they take.

#include <limits>
#include <vector>

#include "graph/interval_costs.h"

namespace merak {

struct InFlight {
  int whole = 1, checkpointed = 0;

  bool operator==(const InFlight&) const = default;
};

struct PipelineModel {
  std::vector<int> rank_of = {0};          // by stage
  std::vector<InFlight> in_flight = {{}};  // by stage
  int micro_batches = 1;
  double state_factor = 4;  // bytes of parameter, gradient and optimizer state for each byte of parameter
  std::vector<double> budget_bytes = {std::numeric_limits<double>::infinity()};  // by rank
  double latency_s = 0, bytes_per_s = std::numeric_limits<double>::infinity();
  bool hides_communication = false;

  int stages() const { return static_cast<int>(rank_of.size()); }
  int ranks() const { return static_cast<int>(budget_bytes.size()); }
  double stages_per_rank() const { return static_cast<double>(stages()) / ranks(); }
  double budget_of_stage(int stage) const { return budget_bytes[rank_of[stage]]; }

  double transfer_s(double bytes) const { return bytes > 0 ? latency_s + bytes / bytes_per_s : 0; }
  double period_s(double work_s, double receive_s, double return_s) const;
  double step_s(double passes_s, double longest_period_s) const;
};

// Throws std::invalid_argument that names what is wrong, such as a rank without a stage.
void check_model(const PipelineModel& model);

// One rank a stage, 1F1B: at stage s min(m, S - s) micro-batches are in flight. The rest as above.
PipelineModel one_forward_one_backward(int stages, int micro_batches);

}  // namespace merak
