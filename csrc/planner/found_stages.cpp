#include "planner/found_stages.h"

#include <algorithm>
#include <numeric>

namespace merak::planner {
namespace {

// As if all stages were of that shape.
Cut cut_on(const StageShape& shape, const SearchModel& model, const std::vector<int>& points) {
  const int stages = static_cast<int>(points.size()) - 1;
  PipelineModel pipeline{.rank_of = std::vector<int>(stages),
                         .in_flight = {},
                         .micro_batches = model.micro_batches,
                         .state_factor = shape.state_factor,
                         .budget_bytes = std::vector<double>(stages, shape.budget_bytes),
                         .latency_s = shape.latency_s,
                         .bytes_per_s = shape.bytes_per_s,
                         .hides_communication = model.hides_communication};
  std::iota(pipeline.rank_of.begin(), pipeline.rank_of.end(), 0);
  for (int s = 0; s < stages; ++s) pipeline.in_flight.push_back(model.in_flight[stages - 1 - s]);
  return assess(*shape.costs, pipeline, {.kind = model.recompute}, points);
}

}  // namespace

FoundStages place(const std::vector<StageShape>& shapes, const SearchModel& model, const std::vector<int>& points,
                  const std::vector<int>& shape_of_stage) {
  FoundStages found{.points = points, .stages = std::vector<FoundStage>(shape_of_stage.size())};
  for (int number = 0; number < static_cast<int>(shapes.size()); ++number) {
    if (std::find(shape_of_stage.begin(), shape_of_stage.end(), number) == shape_of_stage.end()) continue;
    const StageShape& shape = shapes[number];
    const Cut cut = cut_on(shape, model, points);
    for (std::size_t s = 0; s < shape_of_stage.size(); ++s) {
      if (shape_of_stage[s] != number) continue;
      const double once_s = shape.once_s_per_byte * cut.stages[s].parameter_bytes;
      found.stages[s] = {.shape = number,
                         .devices = shape.devices,
                         .cost = cut.stages[s],
                         .pass_s = cut.stages[s].pass_s() + once_s / model.micro_batches,
                         .period_s = cut.period_s[s] + once_s / model.micro_batches,
                         .once_s = once_s,
                         .missing_bytes = cut.missing_bytes[s]};
    }
  }
  int device = 0;
  for (FoundStage& stage : found.stages) {
    stage.first_device = device;
    device += stage.devices;
    found.step_s += stage.pass_s;
    found.bottleneck_s = std::max(found.bottleneck_s, stage.period_s);
    found.crossing_bytes += stage.cost.crossing_bytes;
  }
  found.step_s += (model.micro_batches - 1) * found.bottleneck_s;
  return found;
}

}  // namespace merak::planner
