#include "collectives/choose.h"

#include <algorithm>
#include <stdexcept>

#include "collectives/algorithms.h"

namespace merak {
namespace {

void require(bool condition, const std::string& text) {
  if (!condition) throw std::invalid_argument(text);
}

bool has_root(OperationKind kind) {
  return kind == OperationKind::kBroadcast || kind == OperationKind::kReduce || kind == OperationKind::kScatter ||
         kind == OperationKind::kGather;
}

void check(const CollectiveShape& shape, int rank, const Topology& topology) {
  const int size = topology.size();
  const auto inside = [&](int r) { return 0 <= r && r < size; };
  const std::string group = " in a group of " + std::to_string(size);
  require(shape.kind != OperationKind::kSend, "choose: a point-to-point message needs no program");
  require(inside(rank), "choose: there is no rank " + std::to_string(rank) + group);
  if (has_root(shape.kind))
    require(inside(shape.root), "choose: there is no root " + std::to_string(shape.root) + group);
  require(shape.element_bytes > 0 && shape.bytes % shape.element_bytes == 0,
          "choose: " + std::to_string(shape.bytes) + " bytes are not whole elements of " +
              std::to_string(shape.element_bytes) + " bytes");
  const bool even = shape.send_bytes.empty() && shape.receive_bytes.empty();
  const std::size_t parts = static_cast<std::size_t>(size);
  require(even || (shape.send_bytes.size() == parts && shape.receive_bytes.size() == parts),
          "choose: uneven all_to_all needs the bytes for and from every rank" + group);
  require(even || shape.send_bytes[rank] == shape.receive_bytes[rank],
          "choose: this rank's part for itself has two sizes");
}

// The algorithms for the shape. Local parts of the shape play no role, so all ranks get the same.
std::vector<const Algorithm*> that_fit(const CollectiveShape& shape, const Topology& topology) {
  std::vector<const Algorithm*> fitting;
  for (const Algorithm& algorithm : algorithms())
    if (algorithm.kind == shape.kind && algorithm.fits(shape, topology)) fitting.push_back(&algorithm);
  return fitting;
}

const Algorithm& cheapest(const CollectiveShape& shape, const Topology& topology, const Costs& costs) {
  const Algorithm* cheapest = nullptr;
  double least = 0;
  for (const Algorithm* algorithm : that_fit(shape, topology)) {
    const double seconds = algorithm->seconds(shape, topology, costs);
    if (!cheapest || seconds < least) cheapest = algorithm, least = seconds;
  }
  return *cheapest;
}

}  // namespace

Choice choose(const CollectiveShape& shape, int rank, const Topology& topology, const Costs& costs) {
  check(shape, rank, topology);
  const Algorithm& chosen = cheapest(shape, topology, costs);
  return {chosen.name, chosen.seconds(shape, topology, costs), chosen.program({shape, rank, topology}, costs)};
}

double seconds_of_usual(const CollectiveShape& shape, const Topology& topology, const Costs& costs) {
  check(shape, 0, topology);
  return cheapest(shape, topology, {}).seconds(shape, topology, costs);
}

std::vector<Choice> candidates(const CollectiveShape& shape, int rank, const Topology& topology, const Costs& costs) {
  check(shape, rank, topology);
  std::vector<Choice> choices;
  for (const Algorithm* algorithm : that_fit(shape, topology))
    choices.push_back({algorithm->name, algorithm->seconds(shape, topology, costs),
                       algorithm->program({shape, rank, topology}, costs)});
  return choices;
}

}  // namespace merak
