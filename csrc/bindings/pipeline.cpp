// Schedules and their simulation for Python, as plain tuples: what merak.pipeline shows, draws and runs.

#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/rooms.h"
#include "pipeline/check.h"
#include "pipeline/csv.h"
#include "pipeline/eager.h"
#include "pipeline/first_microbatches.h"
#include "pipeline/make.h"
#include "pipeline/recompute.h"
#include "pipeline/reduction.h"
#include "pipeline/simulate.h"

namespace merak {
namespace {

namespace py = pybind11;
using namespace pipeline;

// As Python writes them:
//   action      (stage, kind, micro-batch, peer), -1 for none
using ActionTuple = std::tuple<int, std::string, int, int>;
//   edge        (producer, consumer, whether a gradient comes back)
using EdgeTuple = std::tuple<int, int, bool>;
//   stage       seconds of forward, backward, backward of inputs, of weights, recompute, reduction;
//               bytes of weights, of an activation, of a checkpoint
using StageTuple = std::tuple<double, double, double, double, double, double, double, double, double>;
//   edge's cost seconds of a value, of a gradient, latency; bytes
using EdgeCostTuple = std::tuple<double, double, double, double>;
//   message     (what it is: "F" or "B", producer, consumer, micro-batch, sent s, start s, end s)
using MessageTuple = std::tuple<std::string, int, int, int, double, double, double>;
//   peak        (bytes, activations, checkpoints, receives)
using PeakTuple = std::tuple<double, int, int, int>;

std::vector<Edge> edges_of(const std::vector<EdgeTuple>& tuples) {
  std::vector<Edge> edges;
  for (const auto& [producer, consumer, gradient] : tuples) edges.push_back({producer, consumer, gradient});
  return edges;
}

std::vector<EdgeTuple> tuples_of(const std::vector<Edge>& edges) {
  std::vector<EdgeTuple> tuples;
  for (const Edge& edge : edges) tuples.emplace_back(edge.producer, edge.consumer, edge.gradient);
  return tuples;
}

std::vector<ActionTuple> actions_of(const Schedule& schedule, int rank) {
  if (rank < 0 || rank >= static_cast<int>(schedule.ranks.size()))
    throw std::invalid_argument("rank " + std::to_string(rank) + " of " + std::to_string(schedule.ranks.size()));
  std::vector<ActionTuple> tuples;
  for (const Action& action : schedule.ranks[rank])
    tuples.emplace_back(action.stage, name(action.kind), action.microbatch, action.peer);
  return tuples;
}

std::vector<PeakTuple> tuples_of(const std::vector<Peak>& peaks) {
  std::vector<PeakTuple> tuples;
  for (const Peak& peak : peaks) tuples.emplace_back(peak.bytes, peak.activations, peak.checkpoints, peak.receives);
  return tuples;
}

Costs costs_of(const std::vector<StageTuple>& stages, const std::vector<EdgeCostTuple>& edges, bool blocking,
               bool buffered, bool shared_links) {
  Costs costs;
  costs.blocking = blocking, costs.buffered = buffered, costs.shared_links = shared_links;
  for (const auto& [forward, backward, input, weight, recompute, reduce, fixed, activation, checkpoint] : stages) {
    costs.seconds.push_back({forward, backward, input, weight, recompute, reduce});
    costs.bytes.push_back({fixed, activation, checkpoint});
  }
  for (const auto& [value, gradient, latency, bytes] : edges) costs.edges.push_back({value, gradient, latency, bytes});
  return costs;
}

std::vector<std::pair<double, double>> spans_of(const Simulation& simulation, std::size_t rank) {
  std::vector<std::pair<double, double>> spans;
  for (const ActionSpan& span : simulation.actions.at(rank)) spans.emplace_back(span.start_s, span.end_s);
  return spans;
}

std::vector<MessageTuple> messages_of(const Simulation& simulation) {
  std::vector<MessageTuple> tuples;
  for (const MessageSpan& span : simulation.messages) {
    const Message& message = span.message;
    tuples.emplace_back(message.forward ? "F" : "B", message.producer, message.consumer, message.microbatch,
                        span.sent_s, span.start_s, span.end_s);
  }
  return tuples;
}

bool is_checkpointed(const Schedule& schedule, int stage, int microbatch) {
  if (stage < 0 || stage >= schedule.stages() || microbatch < 0 || microbatch >= schedule.microbatches)
    throw std::invalid_argument("there is no stage " + std::to_string(stage) + " or no micro-batch " +
                                std::to_string(microbatch));
  return checkpointed(schedule)[static_cast<std::size_t>(stage) * schedule.microbatches + microbatch];
}

void bind_simulation(py::module_& module) {
  py::class_<Simulation>(module, "PipelineSimulation")
      .def_readonly("schedule", &Simulation::schedule)
      .def_readonly("seconds", &Simulation::seconds)
      .def_readonly("busy_s", &Simulation::busy_s)
      .def("bubble", py::overload_cast<>(&Simulation::bubble, py::const_))
      .def("spans", &spans_of, py::arg("rank"))
      .def("messages", &messages_of)
      .def("peaks_of_ranks", [](const Simulation& simulation) { return tuples_of(simulation.memory.ranks); })
      .def("peaks_of_stages", [](const Simulation& simulation) { return tuples_of(simulation.memory.stages); });
}

void bind_passes(py::class_<Schedule>& schedule) {
  schedule.def("with_recompute", &with_recompute, py::arg("stages"))
      .def("pre_recompute", &pre_recompute)
      .def("last_without_recompute", &last_without_recompute)
      .def("with_delayed_weights", &with_delayed_weights)
      .def("with_reduction", &with_reduction)
      .def("first_microbatches", &first_microbatches, py::arg("microbatches"))
      .def(
          "with_communication",
          [](const Schedule& self, const std::vector<EdgeTuple>& edges, int receives_ahead) {
            return with_communication(self, edges_of(edges), receives_ahead);
          },
          py::arg("edges"), py::arg("receives_ahead"));
}

}  // namespace

void bind_pipeline(py::module_& module) {
  bind_simulation(module);
  module.def("schedule_kinds", &schedule_kinds);
  module.attr("RECEIVES_AHEAD") = kReceivesAhead;
  py::class_<Schedule> schedule(module, "PipelineSchedule");
  bind_passes(schedule);
  schedule
      .def_static(
          "compute_order",
          [](const std::string& kind, int stages, int ranks, int microbatches) {
            return compute_order({kind, stages, ranks, microbatches});
          },
          py::arg("kind"), py::arg("stages"), py::arg("ranks"), py::arg("microbatches"))
      .def_static(
          "from_csv",
          [](const std::string& text) {
            Csv csv = read_csv(text);
            return std::make_pair(std::move(csv.schedule), std::move(csv.notes));
          },
          py::arg("text"))
      .def("to_csv", &write_csv)
      .def("to_torch_csv", &write_torch_csv, py::arg("communication"))
      .def_readonly("microbatches", &Schedule::microbatches)
      .def_readonly("rank_of_stage", &Schedule::rank_of_stage)
      .def_property_readonly("ranks", [](const Schedule& self) { return self.ranks.size(); })
      .def_property_readonly("edges", [](const Schedule& self) { return tuples_of(self.edges); })
      .def_property_readonly("communicates", &has_communication)
      .def_property_readonly("receives_as_sent", &receives_as_sent)
      .def_property_readonly("in_flight", &in_flight)
      .def("actions", &actions_of, py::arg("rank"))
      .def("checkpointed", &is_checkpointed, py::arg("stage"), py::arg("microbatch"))
      .def("problems", &check, py::arg("most"))
      .def(
          "simulate",
          [](const Schedule& self, const std::vector<StageTuple>& stages, const std::vector<EdgeCostTuple>& edges,
             bool blocking, bool buffered, bool shared_links) {
            const Costs costs = costs_of(stages, edges, blocking, buffered, shared_links);
            const py::gil_scoped_release no_gil;
            return simulate(self, costs);
          },
          py::arg("stages"), py::arg("edges"), py::arg("blocking"), py::arg("buffered"), py::arg("shared_links"))
      .def("__eq__", [](const Schedule& a, const Schedule& b) { return a == b; });
}

}  // namespace merak
