// Stage cuts for Python, as plain tuples and dicts: what merak.graph.cutting gives and shows.

#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/rooms.h"
#include "bindings/stage_cost.h"
#include "graph/cut_stages.h"
#include "graph/uniform_cut.h"

namespace merak {
namespace {

namespace py = pybind11;

// As Python writes them:
//   node       (forward s, backward s for inputs, for weights, saved bytes, parameters, kept bytes, whether it is kept,
//               working bytes)
//   value      (producer, consumers, bytes, whether it has a gradient)
//   recompute  (kind, shares, nodes), such as ("shares", [0.5, 0], [])
using NodeTuple = std::tuple<double, double, double, double, std::vector<int>, double, bool, double>;
using ValueTuple = std::tuple<int, std::vector<int>, double, bool>;
using RecomputeTuple = std::tuple<std::string, std::vector<double>, std::vector<int>>;

std::unique_ptr<IntervalCosts> costs_of(const std::vector<NodeTuple>& nodes, const std::vector<ValueTuple>& values,
                                        std::vector<double> parameter_bytes, std::vector<bool> may_cut,
                                        std::vector<bool> may_end_prefix) {
  LinearGraph graph{.nodes = {},
                    .values = {},
                    .parameter_bytes = std::move(parameter_bytes),
                    .may_cut = std::move(may_cut),
                    .may_end_prefix = std::move(may_end_prefix)};
  for (const auto& [forward_s, input_s, weight_s, saved, parameters, kept_bytes, kept, working] : nodes)
    graph.nodes.push_back({forward_s, input_s, weight_s, saved, parameters, kept_bytes, kept, working});
  for (const auto& [producer, consumers, bytes, has_gradient] : values)
    graph.values.push_back({producer, consumers, bytes, has_gradient});
  return std::make_unique<IntervalCosts>(graph);
}

PipelineModel model_of(std::vector<int> rank_of, const std::vector<std::pair<int, int>>& in_flight, int micro_batches,
                       double state_factor, std::vector<double> budget_bytes, double latency_s, double bytes_per_s,
                       bool hides_communication) {
  PipelineModel model{.rank_of = std::move(rank_of),
                      .in_flight = {},
                      .micro_batches = micro_batches,
                      .state_factor = state_factor,
                      .budget_bytes = std::move(budget_bytes),
                      .latency_s = latency_s,
                      .bytes_per_s = bytes_per_s,
                      .hides_communication = hides_communication};
  for (const auto& [whole, checkpointed] : in_flight) model.in_flight.push_back({whole, checkpointed});
  check_model(model);
  return model;
}

Recompute recompute_of(const RecomputeTuple& tuple) {
  static const std::vector<std::pair<std::string, RecomputeKind>> kKinds = {{"auto", RecomputeKind::kLeast},
                                                                            {"none", RecomputeKind::kNone},
                                                                            {"all", RecomputeKind::kAll},
                                                                            {"shares", RecomputeKind::kShares},
                                                                            {"nodes", RecomputeKind::kNodes}};
  for (const auto& [name, kind] : kKinds)
    if (name == std::get<0>(tuple)) return {kind, std::get<1>(tuple), std::get<2>(tuple)};
  throw std::invalid_argument("there is no way to recompute called '" + std::get<0>(tuple) +
                              "'; choose of auto, none, all, shares, nodes");
}

py::dict dict_of(const Cut& cut) {
  py::list stages;
  for (const StageCost& stage : cut.stages) stages.append(dict_of(stage));
  py::dict result;
  result["stages"] = std::move(stages);
  result["memory_bytes"] = cut.memory_bytes;
  result["missing_bytes"] = cut.missing_bytes;
  result["period_s"] = cut.period_s;
  result["step_s"] = cut.step_s;
  return result;
}

template <typename Function>
auto without_gil(Function function) {
  const py::gil_scoped_release no_gil;
  return function();
}

UniformCut uniform(const IntervalCosts& costs, const PipelineModel& model, bool by_parameters) {
  if (model.stages() > costs.segments()) throw std::invalid_argument("there are more stages than places to cut");
  const Weight weight = by_parameters ? Weight::kParameters : Weight::kNodes;
  return uniform_recompute(costs, model, uniform_points(costs, model.stages(), weight));
}

}  // namespace

void bind_graph(py::module_& module) {
  py::class_<PipelineModel>(module, "CutModel")
      .def(py::init(&model_of), py::arg("rank_of"), py::arg("in_flight"), py::arg("micro_batches"),
           py::arg("state_factor"), py::arg("budget_bytes"), py::arg("latency_s"), py::arg("bytes_per_s"),
           py::arg("hides_communication"));
  py::class_<IntervalCosts>(module, "CutCosts")
      .def(py::init(&costs_of), py::arg("nodes"), py::arg("values"), py::arg("parameter_bytes"), py::arg("may_cut"),
           py::arg("may_end_prefix"), py::call_guard<py::gil_scoped_release>())
      .def(
          "cut",
          [](const IntervalCosts& costs, const PipelineModel& model, const RecomputeTuple& recompute,
             const std::vector<int>& forced) {
            return dict_of(without_gil([&] { return cut_stages(costs, model, recompute_of(recompute), forced); }));
          },
          py::arg("model"), py::arg("recompute"), py::arg("forced"))
      // Micro-batches in flight, stages, and whether recomputation would do; 0 for none that was tried.
      .def(
          "remedies",
          [](const IntervalCosts& costs, const PipelineModel& model, const RecomputeTuple& recompute,
             const std::vector<int>& forced) {
            const Remedies found =
                without_gil([&] { return remedies_for(costs, model, recompute_of(recompute), forced); });
            return std::make_tuple(found.in_flight, found.stages, found.recompute);
          },
          py::arg("model"), py::arg("recompute"), py::arg("forced"))
      .def(
          "uniform_cut",
          [](const IntervalCosts& costs, const PipelineModel& model, bool by_parameters) {
            const UniformCut found = without_gil([&] { return uniform(costs, model, by_parameters); });
            return std::make_pair(dict_of(found.cut), found.share);
          },
          py::arg("model"), py::arg("by_parameters"))
      .def(
          "uniform_recompute",
          [](const IntervalCosts& costs, const PipelineModel& model, const std::vector<int>& boundaries) {
            std::vector<int> points = {0};
            for (int node : boundaries) points.push_back(costs.point_at(node));
            points.push_back(costs.segments());
            const UniformCut found = without_gil([&] { return uniform_recompute(costs, model, points); });
            return std::make_pair(dict_of(found.cut), found.share);
          },
          py::arg("model"), py::arg("boundaries"));
}

}  // namespace merak
