#include "sparse/plan.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "collectives/choose.h"
#include "sparse/as_everyones.h"
#include "sparse/balanced.h"
#include "sparse/gather.h"
#include "sparse/packed.h"

namespace merak {
namespace {

constexpr std::size_t kChunkBytes = Grain().chunk_bytes;

struct Traffic {
  std::uint64_t bytes = 0;  // that the busiest rank sends or receives
  std::size_t chunk = 0;    // what one message of it is
};

// One exchange in pieces: the wire is busy with the bytes; then the last piece arrives.
double exchange_seconds(const Traffic& traffic, const Topology& topology, const Costs& costs) {
  if (topology.size() == 1) return 0;
  const LinkCosts link = shared_link(topology, costs);
  const double messages =
      static_cast<double>(traffic.bytes) / static_cast<double>(std::max<std::size_t>(traffic.chunk, 1));
  const double work = std::max<double>(messages, topology.size() - 1) * 2 * link.per_message_s;
  const double wire = static_cast<double>(traffic.bytes) * link.seconds_per_byte;
  return link.message_s(0) + std::max(wire, work);
}

class Pricer {
 public:
  Pricer(const UnionRows& rows, const Deal& dealt, const Shape& shape, const Topology& topology, const Costs& costs)
      : rows_(rows), deal_(dealt), shape_(shape), topology_(topology), costs_(costs) {}

  Priced price(Method method) const {
    switch (method) {
      case Method::kDense:
        return densely(method, shape_.table_rows);
      case Method::kPacked:
        return densely(method, rows_.rows());
      case Method::kGather:
        return gathering();
      case Method::kBalanced:
        return balancing();
      case Method::kSketchExact:
        return densely(method, static_cast<std::size_t>(kCellsARow * static_cast<double>(rows_.rows())));
      case Method::kSketch:
      case Method::kAuto:
        break;
    }
    throw std::logic_error(std::string(name(method)) + " has no price of its own");
  }

 private:
  Priced densely(Method method, std::size_t rows) const {
    const std::size_t bytes = rows * shape_.row_bytes;
    const auto n = static_cast<std::uint64_t>(topology_.size());
    if (n == 1) return {method, 0, 0};
    const CollectiveShape shape{
        .kind = OperationKind::kAllReduce, .bytes = bytes, .element_bytes = shape_.element_bytes};
    const double copies = 2 * costs_.reduce_seconds_per_byte * static_cast<double>(bytes);  // laying out, taking out
    const double seconds = seconds_of_usual(shape, topology_, costs_);  // whatever was measured: packed.h
    return {method, seconds + copies, 2 * (n - 1) * bytes / n};
  }

  Priced gathering() const {
    const auto n = static_cast<std::uint64_t>(rows_.size);
    const std::uint64_t most = *std::max_element(rows_.counts.begin(), rows_.counts.end());
    const std::uint64_t least = *std::min_element(rows_.counts.begin(), rows_.counts.end());
    const std::uint64_t all = std::accumulate(rows_.counts.begin(), rows_.counts.end(), std::uint64_t{0});
    const std::uint64_t bytes = std::max((n - 1) * most, all - least) * shape_.row_bytes;
    const double sums =
        costs_.reduce_seconds_per_byte * static_cast<double>(std::min<std::uint64_t>(bytes, kChunkBytes));
    return {Method::kGather, exchange_seconds({bytes, kChunkBytes}, topology_, costs_) + sums, bytes};
  }

  Priced balancing() const {
    const std::uint64_t bytes = deal_.most() * shape_.row_bytes;
    const LinkCosts link = shared_link(topology_, costs_);
    const std::size_t chunk = std::min<std::uint64_t>(bytes, kChunkBytes);
    const double turn = topology_.size() == 1 ? 0 : link.message_s(chunk) + link.reduce_s(chunk);
    return {Method::kBalanced, exchange_seconds({bytes, kChunkBytes / 2}, topology_, costs_) + turn, bytes};
  }

  const UnionRows& rows_;
  const Deal& deal_;
  const Shape& shape_;
  const Topology& topology_;
  const Costs& costs_;
};

}  // namespace

const char* name(Method method) {
  constexpr const char* kNames[] = {"auto", "dense", "gather", "packed", "balanced", "sketch-exact", "sketch"};
  return kNames[static_cast<std::size_t>(method)];
}

Method method_named(const std::string& wanted) {
  std::string known;
  if (wanted == name(Method::kAuto)) return Method::kAuto;
  for (Method method : kMethods) {
    if (wanted == name(method)) return method;
    known += std::string(", '") + name(method) + "'";
  }
  throw std::invalid_argument("there is no sparse method '" + wanted + "'; choose 'auto'" + known);
}

TablePlan plan_table(const UnionRows& rows, const Shape& shape, Method asked, const Topology& topology,
                     const Costs& costs) {
  TablePlan plan;
  plan.deal = deal(rows);
  plan.union_rows = rows.rows(), plan.counts = rows.counts, plan.costs = costs;
  const Pricer pricer(rows, plan.deal, shape, topology, costs);
  for (Method method : kExactMethods) plan.priced.push_back(pricer.price(method));
  const auto price = [&](const Priced& one) {
    const bool by_owners = (one.method == Method::kDense || one.method == Method::kPacked) && shape.element_bytes == 2;
    const bool never = one.method == Method::kSketchExact || by_owners;
    return never ? std::numeric_limits<double>::max() : one.seconds;
  };
  const auto cheapest = std::min_element(plan.priced.begin(), plan.priced.end(),
                                         [&](const Priced& a, const Priced& b) { return price(a) < price(b); });
  plan.method = asked == Method::kAuto ? cheapest->method : asked;
  return plan;
}

namespace {

// Of rows of 16-bit elements, all or those of the union.
Program sum_widely(const Contributions& mine, Method method, const Grain& grain) {
  std::vector<std::uint32_t> ids = mine.rows.ids;
  if (method == Method::kDense) {
    ids.resize(mine.own.present.bits());
    std::iota(ids.begin(), ids.end(), 0u);
  }
  const AsEveryones all(mine, std::move(ids));
  return balanced_all_reduce(all.contributions(), deal(all.contributions().rows), grain.chunk_bytes);
}

}  // namespace

Program program_of(const TablePlan& plan, const Contributions& contributions, const Shape& shape,
                   const Topology& topology, const Grain& grain) {
  const bool dense = plan.method == Method::kDense || plan.method == Method::kPacked;
  if (dense && shape.element_bytes == 2) return sum_widely(contributions, plan.method, grain);
  switch (plan.method) {
    case Method::kDense:
      return dense_all_reduce(contributions, {topology, shape.element_bytes});
    case Method::kGather:
      return gather_all_reduce(contributions, grain.part_bytes);
    case Method::kPacked:
      return packed_all_reduce(contributions, {topology, shape.element_bytes});
    case Method::kBalanced:
      return balanced_all_reduce(contributions, plan.deal, grain.chunk_bytes);
    case Method::kSketchExact:
    case Method::kSketch:
    case Method::kAuto:
      break;
  }
  throw std::logic_error(std::string(name(plan.method)) + " is not one program");
}

}  // namespace merak
