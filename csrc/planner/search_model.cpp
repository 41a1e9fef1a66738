#include "planner/search_model.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace merak::planner {
namespace {

void require(bool holds, const std::string& problem) {
  if (!holds) throw std::invalid_argument("the search for stages: " + problem);
}

void check_shape(const StageShape& shape, const IntervalCosts& costs, const std::string& name, int devices) {
  require(shape.devices >= 1 && shape.devices <= devices,
          name + " takes " + std::to_string(shape.devices) + " of " + std::to_string(devices) + " devices");
  require(shape.costs->segments() == costs.segments() && shape.costs->nodes() == costs.nodes(),
          name + " has other nodes, or other boundaries, than shape 0");
  for (int point = 0; point <= costs.segments(); ++point)
    require(shape.costs->node_at(point) == costs.node_at(point), name + " has other boundaries than shape 0");
  for (double factor : {shape.latency_s, shape.once_s_per_byte, shape.state_factor})
    require(std::isfinite(factor) && factor >= 0, "a factor or latency of " + name + " is negative or not finite");
  require(shape.bytes_per_s > 0, "the bandwidth of " + name + " is not positive");
  require(shape.budget_bytes > 0, name + " has no memory");
  require(shape.may_begin.empty() || static_cast<int>(shape.may_begin.size()) == devices + 1,
          name + " says of " + std::to_string(shape.may_begin.size()) + " places whether it may begin there, not of " +
              std::to_string(devices + 1));
}

void check_pinned(const Pinned& pinned, int shapes, int segments) {
  require(pinned.stages >= 0, "the number of stages is negative");
  require(
      pinned.shapes.empty() || static_cast<int>(pinned.shapes.size()) == pinned.stages,
      "shapes are given for " + std::to_string(pinned.shapes.size()) + " stages of " + std::to_string(pinned.stages));
  for (int shape : pinned.shapes)
    require(shape >= -1 && shape < shapes,
            "shape " + std::to_string(shape) + " is given for a stage, of " + std::to_string(shapes));
  int before = 0;
  for (int point : pinned.boundaries) {
    require(point > before && point < segments, "the given boundaries do not ascend between the first and last point");
    before = point;
  }
}

}  // namespace

void check_search(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned) {
  require(!shapes.empty(), "there is no shape");
  for (const StageShape& shape : shapes) require(shape.costs != nullptr, "a shape has no costs");
  require(model.devices > 0 && model.max_stages > 0 && model.micro_batches > 0,
          "the number of devices, of stages or of micro-batches is not positive");
  for (std::size_t i = 0; i < shapes.size(); ++i)
    check_shape(shapes[i], *shapes[0].costs, "shape " + std::to_string(i), model.devices);
  require(static_cast<int>(model.in_flight.size()) >= model.max_stages,
          "micro-batches in flight are given for " + std::to_string(model.in_flight.size()) + " stages of " +
              std::to_string(model.max_stages));
  for (const InFlight& one : model.in_flight)
    require(one.whole >= 1 && one.checkpointed >= 0, "at a stage no micro-batch is in flight");
  require(model.recompute == RecomputeKind::kLeast || model.recompute == RecomputeKind::kNone ||
              model.recompute == RecomputeKind::kAll,
          "what to recompute can be the least that fits, nothing or all");
  require(model.tolerance >= 0 && model.tolerance < 1 && model.within >= 0,
          "the tolerance is not from 0 to 1, or another limit is negative");
  check_pinned(pinned, static_cast<int>(shapes.size()), shapes[0].costs->segments());
  require(pinned.stages <= model.max_stages, std::to_string(pinned.stages) + " stages are given, but at most " +
                                                 std::to_string(model.max_stages) + " allowed");
}

}  // namespace merak::planner
