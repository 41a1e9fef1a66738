// Searches for stages for Python, as plain tuples and dicts: what merak.planner.stage_search gives and explains.

#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/rooms.h"
#include "bindings/stage_cost.h"
#include "planner/least_missing.h"
#include "planner/stage_search.h"

namespace merak::planner {
namespace {

namespace py = pybind11;

// As Python writes them:
//   shape   (devices, CutCosts, latency s, bytes/s, budget bytes, s once a byte, state factor, where it may begin)
//   pinned  (stages or 0, nodes where stages begin, shapes by stage or -1)
using ShapeTuple = std::tuple<int, py::object, double, double, double, double, double, std::vector<bool>>;
using PinnedTuple = std::tuple<int, std::vector<int>, std::vector<int>>;

RecomputeKind kind_of(const std::string& name) {
  if (name == "auto") return RecomputeKind::kLeast;
  if (name == "none") return RecomputeKind::kNone;
  if (name == "all") return RecomputeKind::kAll;
  throw std::invalid_argument("there is no way to recompute called '" + name + "'; choose of auto, none, all");
}

class StageSearch {
 public:
  StageSearch(const std::vector<ShapeTuple>& shapes, SearchModel model) : model_(std::move(model)) {
    for (const auto& [devices, costs, latency_s, bytes_per_s, budget_bytes, once_s, state_factor, may_begin] : shapes) {
      costs_.push_back(costs);
      shapes_.push_back({.devices = devices,
                         .costs = costs.cast<const IntervalCosts*>(),
                         .latency_s = latency_s,
                         .bytes_per_s = bytes_per_s,
                         .budget_bytes = budget_bytes,
                         .once_s_per_byte = once_s,
                         .state_factor = state_factor,
                         .may_begin = may_begin});
    }
    check_search(shapes_, model_, {});
  }

  template <typename Function>
  auto with(const PinnedTuple& tuple, Function function) const {
    const py::gil_scoped_release no_gil;
    Pinned pinned{.stages = std::get<0>(tuple), .boundaries = {}, .shapes = std::get<2>(tuple)};
    for (int node : std::get<1>(tuple)) pinned.boundaries.push_back(shapes_[0].costs->point_at(node));
    return function(shapes_, model_, pinned);
  }

 private:
  std::vector<py::object> costs_;  // what the shapes point to
  std::vector<StageShape> shapes_;
  SearchModel model_;
};

StageSearch search_of(const std::vector<ShapeTuple>& shapes, int devices, int max_stages, int micro_batches,
                      const std::vector<std::pair<int, int>>& in_flight, bool hides_communication,
                      const std::string& recompute, double tolerance, double within, double most_s) {
  SearchModel model{.devices = devices,
                    .max_stages = max_stages,
                    .micro_batches = micro_batches,
                    .hides_communication = hides_communication,
                    .in_flight = {},
                    .recompute = kind_of(recompute),
                    .tolerance = tolerance,
                    .within = within,
                    .most_s = most_s};
  for (const auto& [whole, checkpointed] : in_flight) model.in_flight.push_back({whole, checkpointed});
  return StageSearch(shapes, std::move(model));
}

py::dict dict_of(const FoundStage& stage) {
  py::dict result;
  result["shape"] = stage.shape;
  result["first_device"] = stage.first_device;
  result["devices"] = stage.devices;
  result["cost"] = merak::dict_of(stage.cost);
  result["pass_s"] = stage.pass_s;
  result["period_s"] = stage.period_s;
  result["once_s"] = stage.once_s;
  result["missing_bytes"] = stage.missing_bytes;
  return result;
}

py::dict dict_of(const FoundStages& found) {
  py::list stages;
  for (const FoundStage& stage : found.stages) stages.append(dict_of(stage));
  py::dict result;
  result["stages"] = std::move(stages);
  result["step_s"] = found.step_s;
  result["bottleneck_s"] = found.bottleneck_s;
  result["bound_s"] = found.bound_s;
  return result;
}

}  // namespace
}  // namespace merak::planner

namespace merak {

void bind_planner(pybind11::module_& module) {
  namespace py = pybind11;
  using planner::PinnedTuple;
  using planner::StageSearch;
  py::class_<StageSearch>(module, "StageSearch")
      .def(py::init(&planner::search_of), py::arg("shapes"), py::arg("devices"), py::arg("max_stages"),
           py::arg("micro_batches"), py::arg("in_flight"), py::arg("hides_communication"), py::arg("recompute"),
           py::arg("tolerance"), py::arg("within"), py::arg("most_s"))
      // What was found, best first, the bound for all numbers of stages, and trials.
      .def(
          "search",
          [](const StageSearch& search, const PinnedTuple& pinned) {
            const planner::SearchResult result = search.with(pinned, planner::search_stages);
            py::list found;
            for (const planner::FoundStages& one : result.found) found.append(planner::dict_of(one));
            return std::make_tuple(found, result.bound_s, result.trials);
          },
          py::arg("pinned"))
      .def(
          "least_missing",
          [](const StageSearch& search, const PinnedTuple& pinned) {
            return planner::dict_of(search.with(pinned, planner::least_missing));
          },
          py::arg("pinned"))
      // Whether recomputation would do, micro-batches in flight, and stages; 0 for none.
      .def(
          "remedies",
          [](const StageSearch& search, const PinnedTuple& pinned) {
            const planner::SearchRemedies found = search.with(pinned, planner::search_remedies);
            return std::make_tuple(found.recompute, found.in_flight, found.stages);
          },
          py::arg("pinned"));
}

}  // namespace merak
