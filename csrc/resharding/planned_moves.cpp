#include "resharding/planned_moves.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "resharding/check_plan.h"

namespace merak {
namespace {

constexpr std::size_t kMostNames = 3;  // in an error

std::vector<Move> all_of(const std::vector<NamedMove>& moves) {
  std::vector<Move> all;
  for (const NamedMove& one : moves) all.push_back(one.move);
  return all;
}

std::uint64_t hash_of(const std::vector<PlannedMoves::Part>& parts) {
  Hash hash;
  for (const PlannedMoves::Part& part : parts) {
    hash.add(static_cast<std::uint64_t>(part.plan.chosen.in_flight));
    for (const Transfer& transfer : part.plan.transfers) {
      for (std::uint64_t number : {std::uint64_t{transfer.bucket}, std::uint64_t{transfer.begin},
                                   std::uint64_t{transfer.end}, std::uint64_t{transfer.segment_bytes}})
        hash.add(number);
      for (int rank : transfer.relay.reduce_chain) hash.add(static_cast<std::uint64_t>(rank));
      for (Hop hop : transfer.relay.hops)
        hash.add(static_cast<std::uint64_t>(hop.from)), hash.add(static_cast<std::uint64_t>(hop.to));
    }
  }
  return hash.value();
}

std::uint64_t hash_of(const Network& network) {
  Hash hash;
  for (int host : network.host_of) hash.add(static_cast<std::uint64_t>(host));
  for (const HostLinks& host : network.hosts)
    for (double bandwidth : {host.out_bytes_per_s, host.in_bytes_per_s, host.inside_bytes_per_s}) hash.add(bandwidth);
  for (double cost :
       {network.latency_s, network.latency_inside_s, network.per_message_s, network.reduce_seconds_per_byte})
    hash.add(cost);
  return hash.value();
}

Statement statement_of(const std::vector<NamedMove>& moves) {
  std::array<Hash, Statement::kWhats> hash;
  for (const auto& [name, move] : moves) {
    hash[Statement::kNames].add(name);
    hash[Statement::kShapes].add(move.shape.size());
    for (std::size_t extent : move.shape) hash[Statement::kShapes].add(extent);
    hash[Statement::kDTypes].add(static_cast<std::uint64_t>(move.dtype));
    hash[Statement::kSources].add(move.source);
    hash[Statement::kTargets].add(move.target);
  }
  Statement statement;
  for (std::size_t what = 0; what < hash.size(); ++what) statement.hash[what] = hash[what].value();
  return statement;
}

}  // namespace

PlannedMoves::PlannedMoves(std::vector<NamedMove> moves, Network network, std::size_t most_staging_bytes)
    : moves_(std::move(moves)), network_(std::move(network)), most_staging_bytes_(most_staging_bytes) {
  cut_into_parts();
  std::vector<ReshardPlan> plans;
  for (const Part& part : parts_) plans.push_back(make_plan(part.batch, network_));
  take(std::move(plans));
}

PlannedMoves::PlannedMoves(std::vector<NamedMove> moves, Network network, std::size_t most_staging_bytes,
                           std::vector<ReshardPlan> plans)
    : moves_(std::move(moves)), network_(std::move(network)), most_staging_bytes_(most_staging_bytes) {
  cut_into_parts();
  if (plans.size() != parts_.size())
    throw std::invalid_argument("a plan of " + std::to_string(plans.size()) + " parts for tensors that need " +
                                std::to_string(parts_.size()));
  for (std::size_t p = 0; p < plans.size(); ++p) {
    plans[p].buckets = buckets_of(parts_[p].batch);
    const std::string fault = fault_of(plans[p], parts_[p].batch);
    if (!fault.empty()) throw std::invalid_argument("the plan does not do what is asked: " + fault);
  }
  take(std::move(plans));
}

void PlannedMoves::cut_into_parts() {
  check_network(network_);
  check_staging(most_staging_bytes_);
  for (const NamedMove& one : moves_) check_move(one.move, network_.ranks(), "'" + one.name + "'");
  const MoveBatch all = cut(all_of(moves_));
  using Way = std::tuple<DType, Reduction, std::size_t>;
  std::map<Way, std::size_t> part_of;
  std::vector<std::vector<std::uint32_t>> members(1);
  for (std::uint32_t tensor = 0; tensor < moves_.size(); ++tensor) {
    const MoveUnits& units = all.units_of_tensor(tensor);
    std::size_t part = 0;
    if (units.reduction != Reduction::kNone && !units.units.empty())
      part =
          part_of.try_emplace({all.moves[tensor].dtype, units.reduction, units.divisor}, part_of.size()).first->second;
    if (part == members.size()) members.emplace_back();
    members[part].push_back(tensor);
  }
  for (std::vector<std::uint32_t>& tensors : members) {
    std::vector<Move> moves;
    for (std::uint32_t tensor : tensors) moves.push_back(moves_[tensor].move);
    Part& part = parts_.emplace_back(Part{std::move(tensors), cut(std::move(moves)), {}, {}});
    part.reduced = reduced_as(part.batch);
  }
}

void PlannedMoves::take(std::vector<ReshardPlan> plans) {
  for (std::size_t p = 0; p < plans.size(); ++p) parts_[p].plan = std::move(plans[p]);
  of_rank_.resize(parts_.size());
  statement_ = statement_of(moves_);
  statement_.hash[Statement::kNetwork] = hash_of(network_);
  statement_.hash[Statement::kStaging] = most_staging_bytes_;
  statement_.hash[Statement::kTransfers] = hash_of(parts_);
}

double PlannedMoves::seconds() const {
  double seconds = 0;
  for (const Part& part : parts_) seconds += part.plan.seconds();
  return seconds;
}

double PlannedMoves::bound_s() const {
  double seconds = 0;
  for (const Part& part : parts_) seconds += part.plan.bound_s;
  return seconds;
}

Program PlannedMoves::make_program(const Part& part, int rank) const {
  return reshard_program(part.plan, part.batch, network_.host_of, rank, most_staging_bytes_);
}

PlannedMoves::OfRank& PlannedMoves::of_rank(std::size_t part, int rank) const {
  OfRank& made = of_rank_[part];
  if (made.rank != rank) made = {.rank = rank, .program = nullptr, .rounds = nullptr, .carried = {}};
  return made;
}

std::shared_ptr<const PreparedProgram> PlannedMoves::program(std::size_t part, int rank) const {
  std::lock_guard lock(mutex_);
  OfRank& made = of_rank(part, rank);
  if (!made.program) made.program = std::make_shared<const PreparedProgram>(make_program(parts_[part], rank));
  return made.program;
}

std::shared_ptr<const Rounds> PlannedMoves::rounds(std::size_t part, int rank) const {
  std::lock_guard lock(mutex_);
  OfRank& made = of_rank(part, rank);
  if (!made.rounds) {
    std::vector<Program> programs;
    for (int one = 0; one < network_.ranks(); ++one) programs.push_back(make_program(parts_[part], one));
    made.rounds = std::make_shared<const Rounds>(std::move(nccl_rounds(programs)[static_cast<std::size_t>(rank)]));
  }
  return made.rounds;
}

std::string PlannedMoves::carried_by(std::size_t part, int rank, std::uint32_t step) const {
  const auto& [tensors, batch, plan, reduced] = parts_[part];
  std::lock_guard lock(mutex_);
  OfRank& made = of_rank(part, rank);
  if (made.carried.empty()) made.carried = carried_by_steps(plan, batch, network_.host_of, rank, most_staging_bytes_);
  const Carried carried = made.carried.at(step);
  if (carried.transfer == Carried::kNoTransfer) return "a copy of its own";
  std::vector<std::uint32_t> seen;
  for (const Slice& slice :
       slices_of(batch, plan.buckets[plan.transfers[carried.transfer].bucket], carried.begin, carried.end))
    if (std::find(seen.begin(), seen.end(), slice.unit.tensor) == seen.end()) seen.push_back(slice.unit.tensor);
  std::string text;
  for (std::size_t i = 0; i < std::min(seen.size(), kMostNames); ++i)
    text += (i > 0 ? ", '" : "'") + moves_[tensors[seen[i]]].name + "'";
  if (seen.size() > kMostNames) text += " and " + std::to_string(seen.size() - kMostNames) + " more";
  const auto& bucket = plan.buckets[plan.transfers[carried.transfer].bucket];
  return text + ", bytes " + std::to_string(carried.begin) + " to " + std::to_string(carried.end) + " of " +
         std::to_string(bucket.bytes) + " in transfer " + std::to_string(carried.transfer);
}

HostTraffic host_traffic(const ReshardPlan& plan, const Network& network) {
  HostTraffic traffic{std::vector<std::size_t>(network.hosts.size()), std::vector<std::size_t>(network.hosts.size())};
  const auto add = [&](int from, int to, std::size_t bytes) {
    const auto out = static_cast<std::size_t>(network.host_of[from]),
               in = static_cast<std::size_t>(network.host_of[to]);
    if (out == in) return;
    traffic.out[out] += bytes, traffic.in[in] += bytes;
  };
  for (const Transfer& transfer : plan.transfers) {
    const std::vector<int>& chain = transfer.relay.reduce_chain;
    for (std::size_t i = 1; i < chain.size(); ++i) add(chain[i - 1], chain[i], transfer.bytes());
    for (Hop hop : transfer.relay.hops) add(hop.from, hop.to, transfer.bytes());
  }
  return traffic;
}

}  // namespace merak
