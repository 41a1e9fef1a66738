// Layouts, networks and plans for Python, as plain tuples and dicts: what merak.resharding explains, draws, saves and
// loads. The backend's calls are in backend.cpp.

#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/rooms.h"
#include "collectives/kernels.h"
#include "resharding/lower_bound.h"
#include "resharding/planned_moves.h"

namespace merak {
namespace {

namespace py = pybind11;

// As Python writes them:
//   placement   (kind, dim, split factor, reduction), such as ("shard", 0, 1, "none")
//   layout      (mesh shape, ranks, placements)
//   move        (name, shape, dtype, source, target)
using PlacementTuple = std::tuple<std::string, int, std::size_t, std::string>;
using LayoutTuple = std::tuple<std::vector<int>, std::vector<int>, std::vector<PlacementTuple>>;
using MoveTuple = std::tuple<std::string, std::vector<std::size_t>, std::string, LayoutTuple, LayoutTuple>;
//   host        bytes/s (out, in, inside)
using HostTuple = std::tuple<double, double, double>;
//   transfer    (bucket, begin, end, segment bytes, reduce chain, hops, start s, end s)
using TransferTuple = std::tuple<std::uint32_t, std::size_t, std::size_t, std::size_t, std::vector<int>,
                                 std::vector<std::pair<int, int>>, double, double>;
//   candidate   (shape, cut, balanced, in flight, seconds)
using CandidateTuple = std::tuple<std::string, bool, bool, int, double>;
//   plan        (transfers, chosen, candidates, bound s)
using PlanTuple = std::tuple<std::vector<TransferTuple>, CandidateTuple, std::vector<CandidateTuple>, double>;

template <class Enum>
Enum named(const std::string& wanted, int count, const char* what) {
  for (int i = 0; i < count; ++i)
    if (wanted == name(static_cast<Enum>(i))) return static_cast<Enum>(i);
  throw std::invalid_argument("'" + wanted + "' is no " + what + " that can be resharded");
}

Reduction reduction_named(const std::string& name) { return named<Reduction>(name, kReductions, "reduction"); }
DType dtype_named(const std::string& name) { return named<DType>(name, kDTypes, "dtype"); }
PlanShape shape_named(const std::string& name) { return named<PlanShape>(name, 3, "shape of a plan"); }

Placement placement_of(const PlacementTuple& tuple) {
  const auto& [kind, dim, split_factor, reduction] = tuple;
  if (kind == "replicate") return replicate();
  if (kind == "shard") return shard(dim);
  if (kind == "strided_shard") return strided_shard(dim, split_factor);
  if (kind == "partial") return partial(reduction_named(reduction));
  throw std::invalid_argument("'" + kind + "' is no placement");
}

Layout layout_of(const LayoutTuple& tuple) {
  const auto& [mesh_shape, ranks, placements] = tuple;
  Layout layout{.mesh_shape = mesh_shape, .ranks = ranks, .placements = {}};
  for (const PlacementTuple& placement : placements) layout.placements.push_back(placement_of(placement));
  return layout;
}

NamedMove move_of(const MoveTuple& tuple) {
  const auto& [name, shape, dtype, source, target] = tuple;
  try {
    return {name, {shape, dtype_named(dtype), layout_of(source), layout_of(target)}};
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("'" + name + "': " + error.what());
  }
}

std::vector<NamedMove> moves_of(const std::vector<MoveTuple>& tuples) {
  std::vector<NamedMove> moves;
  for (const MoveTuple& tuple : tuples) moves.push_back(move_of(tuple));
  return moves;
}

Candidate candidate_of(const CandidateTuple& tuple) {
  const auto& [shape, cut, balanced, in_flight, seconds] = tuple;
  if (in_flight < 1) throw std::invalid_argument("a plan with " + std::to_string(in_flight) + " transfers in flight");
  return {shape_named(shape), cut, balanced, in_flight, seconds};
}

ReshardPlan plan_of(const PlanTuple& tuple) {
  const auto& [transfers, chosen, candidates, bound_s] = tuple;
  ReshardPlan plan;
  plan.chosen = candidate_of(chosen), plan.bound_s = bound_s;
  for (const CandidateTuple& candidate : candidates) plan.candidates.push_back(candidate_of(candidate));
  for (const auto& [bucket, begin, end, segment_bytes, chain, hops, start_s, end_s] : transfers) {
    Transfer& transfer = plan.transfers.emplace_back();
    transfer.bucket = bucket, transfer.begin = begin, transfer.end = end, transfer.segment_bytes = segment_bytes;
    transfer.relay.reduce_chain = chain, transfer.start_s = start_s, transfer.end_s = end_s;
    for (const auto& [from, to] : hops) transfer.relay.hops.push_back({from, to});
  }
  return plan;
}

CandidateTuple tuple_of(const Candidate& candidate) {
  return {name(candidate.shape), candidate.cut, candidate.balanced, candidate.in_flight, candidate.seconds};
}

PlanTuple tuple_of(const ReshardPlan& plan) {
  std::vector<TransferTuple> transfers;
  for (const Transfer& transfer : plan.transfers) {
    std::vector<std::pair<int, int>> hops;
    for (Hop hop : transfer.relay.hops) hops.emplace_back(hop.from, hop.to);
    transfers.emplace_back(transfer.bucket, transfer.begin, transfer.end, transfer.segment_bytes,
                           transfer.relay.reduce_chain, std::move(hops), transfer.start_s, transfer.end_s);
  }
  std::vector<CandidateTuple> candidates;
  for (const Candidate& candidate : plan.candidates) candidates.push_back(tuple_of(candidate));
  return {std::move(transfers), tuple_of(plan.chosen), std::move(candidates), plan.bound_s};
}

std::vector<PlanTuple> plans_of(const PlannedMoves& planned) {
  std::vector<PlanTuple> plans;
  for (const PlannedMoves::Part& part : planned.parts()) plans.push_back(tuple_of(part.plan));
  return plans;
}

// (moves, holders by contributor, receivers, bytes, pieces)
py::list buckets_of_part(const PlannedMoves::Part& part) {
  py::list result;
  for (const Bucket& bucket : part.plan.buckets) {
    std::vector<std::uint32_t> moves;
    for (UnitOfBatch unit : bucket.units)
      if (moves.empty() || moves.back() != part.moves[unit.tensor]) moves.push_back(part.moves[unit.tensor]);
    result.append(py::make_tuple(moves, bucket.contributors, bucket.receivers, bucket.bytes, bucket.units.size()));
  }
  return result;
}

py::dict explanation_of(const PlannedMoves::Part& part, const Network& network) {
  const HostTraffic traffic = host_traffic(part.plan, network);
  const LowerBound bound = lower_bound(part.plan.buckets, network);
  py::dict result;
  result["moves"] = part.moves, result["buckets"] = buckets_of_part(part);
  result["bytes_out"] = traffic.out, result["bytes_in"] = traffic.in, result["least_bytes_in"] = bound.bytes_in;
  return result;
}

// Throws std::invalid_argument where something would have to be reduced that cannot be.
std::shared_ptr<PlannedMoves> reducible(std::shared_ptr<PlannedMoves> planned) {
  for (const PlannedMoves::Part& part : planned->parts())
    if (part.reduced) make_reducer(part.reduced->dtype, part.reduced->reduction, part.reduced->divisor);
  return planned;
}

std::vector<std::size_t> local_sizes(const Region& region) {
  std::vector<std::size_t> sizes;
  for (const RunList& runs : region.dims) sizes.push_back(count(runs));
  return sizes;
}

// The most of all parts, which come one after the other.
std::size_t staging_bytes_of(const PlannedMoves& planned, int rank) {
  std::size_t most = 0;
  for (std::size_t part = 0; part < planned.parts().size(); ++part) {
    const std::vector<std::size_t>& scratch = planned.program(part, rank)->program().scratch;
    most = std::max(most, std::accumulate(scratch.begin(), scratch.end(), std::size_t{0}));
  }
  return most;
}

void bind_network(py::module_& module) {
  py::class_<Network>(module, "Network")
      .def(py::init([](std::vector<int> host_of, const std::vector<HostTuple>& hosts, double latency_s,
                       double latency_inside_s, double per_message_s, double reduce_seconds_per_byte) {
             Network network{std::move(host_of),     {}, latency_s, latency_inside_s, per_message_s,
                             reduce_seconds_per_byte};
             for (const auto& [out, in, inside] : hosts) network.hosts.push_back({out, in, inside});
             check_network(network);
             return network;
           }),
           py::arg("host_of"), py::arg("hosts"), py::arg("latency_s"), py::arg("latency_inside_s"),
           py::arg("per_message_s"), py::arg("reduce_seconds_per_byte"))
      .def_property_readonly("host_of", [](const Network& network) { return network.host_of; })
      .def_property_readonly("hosts",
                             [](const Network& network) {
                               std::vector<HostTuple> hosts;
                               for (const HostLinks& host : network.hosts)
                                 hosts.emplace_back(host.out_bytes_per_s, host.in_bytes_per_s, host.inside_bytes_per_s);
                               return hosts;
                             })
      .def_readonly("latency_s", &Network::latency_s)
      .def_readonly("latency_inside_s", &Network::latency_inside_s)
      .def_readonly("per_message_s", &Network::per_message_s)
      .def_readonly("reduce_seconds_per_byte", &Network::reduce_seconds_per_byte);
  module.def("usual_network", &network_of, py::arg("host_of"));
}

void bind_layouts(py::module_& module) {
  module.def(
      "check_move",
      [](const MoveTuple& move, int ranks) {
        for (const NamedMove& one : moves_of({move})) check_move(one.move, ranks, "'" + one.name + "'");
      },
      py::arg("move"), py::arg("ranks"));
  // Of what a rank of the mesh has; needs a layout that check_move() accepts.
  module.def(
      "local_shape",
      [](const std::vector<std::size_t>& shape, const LayoutTuple& layout, int rank) {
        const Tiling tiles = tiling(layout_of(layout), shape);
        return local_sizes(tiles.region(tile_of(tiles, rank)));
      },
      py::arg("shape"), py::arg("layout"), py::arg("rank"));
}

}  // namespace

void bind_resharding(py::module_& module) {
  bind_network(module);
  bind_layouts(module);
  const py::call_guard<py::gil_scoped_release> no_gil;
  py::class_<PlannedMoves, std::shared_ptr<PlannedMoves>>(module, "PlannedMoves")
      .def(py::init([](const std::vector<MoveTuple>& moves, const Network& network, std::size_t most_staging_bytes) {
             return reducible(std::make_shared<PlannedMoves>(moves_of(moves), network, most_staging_bytes));
           }),
           py::arg("moves"), py::arg("network"), py::arg("most_staging_bytes"), no_gil)
      .def_static(
          "from_plans",
          [](const std::vector<MoveTuple>& moves, const Network& network, std::size_t most_staging_bytes,
             const std::vector<PlanTuple>& tuples) {
            std::vector<ReshardPlan> plans;
            for (const PlanTuple& tuple : tuples) plans.push_back(plan_of(tuple));
            return reducible(
                std::make_shared<PlannedMoves>(moves_of(moves), network, most_staging_bytes, std::move(plans)));
          },
          py::arg("moves"), py::arg("network"), py::arg("most_staging_bytes"), py::arg("plans"), no_gil)
      .def_property_readonly("network", &PlannedMoves::network)
      .def_property_readonly("most_staging_bytes", &PlannedMoves::most_staging_bytes)
      .def_property_readonly("seconds", &PlannedMoves::seconds)
      .def_property_readonly("bound_s", &PlannedMoves::bound_s)
      .def("plans", &plans_of)
      .def("explanations",
           [](const PlannedMoves& planned) {
             py::list result;
             for (const PlannedMoves::Part& part : planned.parts())
               result.append(explanation_of(part, planned.network()));
             return result;
           })
      .def("staging_bytes", &staging_bytes_of, py::arg("rank"));
}

}  // namespace merak
