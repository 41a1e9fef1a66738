#include "resharding/check_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

namespace merak {
namespace {

class Fault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

void require(bool holds, const std::string& otherwise) {
  if (!holds) throw Fault(otherwise);
}

std::string text(int rank) { return "rank " + std::to_string(rank); }

bool contains(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

// The units of a rank lie in its tile and are as many elements; those of one move are disjoint if no two are made of
// the same tiles.
void check_tiles(const MoveUnits& move) {
  std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
  std::vector<std::size_t> elements(move.target.tiles(), 0);
  for (const Unit& unit : move.units) {
    require(seen.emplace(unit.source_tile, unit.target_tile).second, "a unit occurs twice");
    require(unit.elements > 0 && move.region(unit).elements() == unit.elements, "a unit has another size than it says");
    elements[unit.target_tile] += unit.elements;
  }
  for (std::size_t tile = 0; tile < elements.size(); ++tile)
    require(elements[tile] == move.target.region(tile).elements(),
            "the units of target tile " + std::to_string(tile) + " do not make it up");
}

class BatchChecker {
 public:
  BatchChecker(const ReshardPlan& plan, const MoveBatch& batch) : plan_(plan), batch_(batch) {}

  void run() const {
    for (const MoveUnits& move : batch_.units) check_tiles(move);
    check_buckets();
    std::vector<std::vector<const Transfer*>> transfers(plan_.buckets.size());
    for (const Transfer& transfer : plan_.transfers) {
      require(transfer.bucket < transfers.size(), "a transfer of no bucket");
      transfers[transfer.bucket].push_back(&transfer);
    }
    for (std::size_t b = 0; b < transfers.size(); ++b) check_bucket(plan_.buckets[b], transfers[b]);
  }

 private:
  void check_buckets() const {
    std::vector<std::vector<bool>> seen;
    for (std::uint32_t kind : batch_.kind) seen.emplace_back(batch_.units[kind].units.size(), false);
    std::size_t left = 0;
    for (const std::vector<bool>& units : seen) left += units.size();
    for (const Bucket& bucket : plan_.buckets) {
      std::size_t bytes = 0;
      for (UnitOfBatch at : bucket.units) {
        check_member(bucket, at);
        require(!seen[at.tensor][at.unit], "a unit is in two buckets");
        seen[at.tensor][at.unit] = true;
        bytes += batch_.bytes(at);
      }
      require(bytes == bucket.bytes, "a bucket has another size than it says");
      left -= bucket.units.size();
    }
    require(left == 0, "a unit is in no bucket");
  }

  void check_member(const Bucket& bucket, UnitOfBatch at) const {
    const MoveUnits& move = batch_.units_of_tensor(at.tensor);
    const Unit& unit = batch_.unit(at);
    require(move.contributors_of(unit) == bucket.contributors, "a unit has other holders than its bucket");
    require(move.receivers_of(unit) == bucket.receivers, "a unit has other receivers than its bucket");
    require(move.reduction == bucket.reduction && move.divisor == bucket.divisor,
            "a unit is reduced otherwise than its bucket");
    require(!bucket.is_reduced() || batch_.moves[at.tensor].dtype == batch_.moves[bucket.units[0].tensor].dtype,
            "a bucket is reduced in two dtypes");
  }

  void check_bucket(const Bucket& bucket, const std::vector<const Transfer*>& transfers) const {
    std::map<int, std::vector<std::pair<std::size_t, std::size_t>>> got;  // by rank: begin and end
    for (const Transfer* transfer : transfers) {
      check_transfer(bucket, *transfer);
      if (bucket.is_reduced() && contains(bucket.receivers, transfer->relay.sender()))
        got[transfer->relay.sender()].emplace_back(transfer->begin, transfer->end);
      for (Hop hop : transfer->relay.hops) got[hop.to].emplace_back(transfer->begin, transfer->end);
    }
    for (int rank : bucket.receivers) {
      if (bucket.is_held_by(rank)) continue;
      std::size_t have = 0;
      std::sort(got[rank].begin(), got[rank].end());
      for (auto [begin, end] : got[rank]) {
        require(begin == have, text(rank) + " gets bytes twice, or lacks some");
        have = end;
      }
      require(have == bucket.bytes, text(rank) + " lacks the end of a payload");
    }
  }

  void check_transfer(const Bucket& bucket, const Transfer& transfer) const {
    require(transfer.begin < transfer.end && transfer.end <= bucket.bytes, "a transfer of no bytes, or of too many");
    require(transfer.begin % kPayloadUnit == 0 && (transfer.end % kPayloadUnit == 0 || transfer.end == bucket.bytes),
            "a payload is cut within an element");
    require(transfer.segment_bytes > 0 && transfer.segment_bytes % kPayloadUnit == 0, "segments are cut in an element");
    check_chain(bucket, transfer.relay.reduce_chain);
    std::set<int> have = {transfer.relay.sender()};
    for (Hop hop : transfer.relay.hops) {
      require(have.count(hop.from) > 0, text(hop.from) + " passes on what it does not have");
      require(contains(bucket.receivers, hop.to), text(hop.to) + " gets what it does not want");
      require(!bucket.is_held_by(hop.to), text(hop.to) + " gets what it holds");
      require(have.insert(hop.to).second, text(hop.to) + " gets the same twice");
    }
  }

  // Every contributor speaks once: the ranks of the chain can be given contributors, one each. Contributors of a bucket
  // have no rank in common, so each rank has one.
  void check_chain(const Bucket& bucket, const std::vector<int>& chain) const {
    std::set<std::size_t> spoken;
    for (int rank : chain)
      for (std::size_t c = 0; c < bucket.contributors.size(); ++c)
        if (contains(bucket.contributors[c], rank)) require(spoken.insert(c).second, "a contributor is added twice");
    require(spoken.size() == bucket.contributors.size() && chain.size() == spoken.size(),
            "a sender holds nothing, or a contributor is missing");
  }

  const ReshardPlan& plan_;
  const MoveBatch& batch_;
};

}  // namespace

std::string fault_of(const ReshardPlan& plan, const MoveBatch& batch) try {
  BatchChecker(plan, batch).run();
  return "";
} catch (const Fault& fault) {
  return fault.what();
}

}  // namespace merak
