#pragma once
// Carries a plan out on numbers, element by element, and says what every rank of the targets must have in the end.

#include <functional>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#include "resharding/oracle.h"
#include "resharding/plan.h"

namespace merak {

using Value = std::uint64_t;  // wraps around, so that sums and products are the same in any order
using Element = std::pair<std::uint32_t, std::size_t>;  // tensor, row-major number
using ElementValues = std::map<Element, Value>;

inline Value reduced(Reduction reduction, Value a, Value b) {
  switch (reduction) {
    case Reduction::kMin:
      return std::min(a, b);
    case Reduction::kMax:
      return std::max(a, b);
    case Reduction::kProduct:
      return a * b;
    default:
      return a + b;
  }
}

class Delivery {
 public:
  Delivery(const ReshardPlan& plan, const MoveBatch& batch) : plan_(plan), batch_(batch) {
    for (std::uint32_t tensor = 0; tensor < batch.moves.size(); ++tensor) {
      const Move& move = batch.moves[tensor];
      for (std::size_t place = 0; place < move.source.ranks.size(); ++place)
        for (std::size_t element : elements_of(held_by_place(move.source, move.shape, place), move.shape)) {
          const Value value = value_of(tensor, element, contributor_of(move.source, place));
          source_[move.source.ranks[place]][{tensor, element}] = value;
        }
    }
  }

  // By rank. Throws std::out_of_range where a rank gives what it does not have, std::logic_error where it gets
  // something twice.
  std::map<int, ElementValues> run() {
    for (const Transfer& transfer : plan_.transfers) carry_out(transfer);
    for (const Bucket& bucket : plan_.buckets)
      for (int rank : bucket.receivers)
        if (bucket.is_held_by(rank)) store(rank, taken(bucket, rank, 0, bucket.bytes));
    for (std::uint32_t tensor = 0; tensor < batch_.moves.size(); ++tensor) fill_zeros(tensor);
    return target_;
  }

  std::map<int, ElementValues> expected() const {
    std::map<int, ElementValues> expected;
    for (std::uint32_t tensor = 0; tensor < batch_.moves.size(); ++tensor) {
      const Move& move = batch_.moves[tensor];
      const std::map<std::size_t, Value> whole = whole_tensor(tensor);
      for (std::size_t place = 0; place < move.target.ranks.size(); ++place)
        for (std::size_t element : elements_of(held_by_place(move.target, move.shape, place), move.shape))
          expected[move.target.ranks[place]][{tensor, element}] =
              gets_zeros(move.target, place) ? 0 : whole.at(element);
    }
    return expected;
  }

 private:
  using Payload = std::vector<std::pair<Element, Value>>;

  static Value value_of(std::uint32_t tensor, std::size_t element, std::size_t contributor) {
    return 1000 * tensor + 17 * element + 7919 * ((contributor * 5 + element) % 11) + 1;
  }

  std::map<std::size_t, Value> whole_tensor(std::uint32_t tensor) const {
    const Layout& source = batch_.moves[tensor].source;
    std::size_t contributors = 1, divisor = 1;
    Reduction reduction = Reduction::kSum;
    for (std::size_t k = 0; k < source.placements.size(); ++k) {
      if (source.placements[k].kind != PlacementKind::kPartial) continue;
      contributors *= source.mesh_shape[k];
      if (source.placements[k].reduction == Reduction::kAverage) divisor *= source.mesh_shape[k];
      if (source.placements[k].reduction != Reduction::kAverage) reduction = source.placements[k].reduction;
    }
    std::map<std::size_t, Value> whole;
    std::size_t elements = 1;
    for (std::size_t extent : batch_.moves[tensor].shape) elements *= extent;
    for (std::size_t element = 0; element < elements; ++element) {
      Value value = value_of(tensor, element, 0);
      for (std::size_t c = 1; c < contributors; ++c) value = reduced(reduction, value, value_of(tensor, element, c));
      whole[element] = value / divisor;
    }
    return whole;
  }

  // What a rank's own source gives to a part of a payload.
  Payload taken(const Bucket& bucket, int rank, std::size_t begin, std::size_t end) const {
    Payload payload;
    std::size_t at = 0;
    for (UnitOfBatch unit : bucket.units) {
      const Move& move = batch_.moves[unit.tensor];
      for (std::size_t element :
           elements_of(batch_.units_of_tensor(unit.tensor).region(batch_.unit(unit)), move.shape)) {
        const Element name = {unit.tensor, element};
        if (at >= begin && at < end) payload.emplace_back(name, source_.at(rank).at(name));
        at += element_bytes(move.dtype);
      }
    }
    return payload;
  }

  void carry_out(const Transfer& transfer) {
    const Bucket& bucket = plan_.buckets[transfer.bucket];
    const Relay& relay = transfer.relay;
    std::map<int, Payload> has;
    Payload sum = taken(bucket, relay.reduce_chain.front(), transfer.begin, transfer.end);
    for (std::size_t i = 1; i < relay.reduce_chain.size(); ++i) {
      const Payload own = taken(bucket, relay.reduce_chain[i], transfer.begin, transfer.end);
      for (std::size_t e = 0; e < sum.size(); ++e)
        sum[e].second = reduced(bucket.reduction, sum[e].second, own[e].second);
    }
    for (auto& [element, value] : sum) value /= bucket.divisor;
    has[relay.sender()] = sum;
    if (std::count(bucket.receivers.begin(), bucket.receivers.end(), relay.sender()) > 0 && bucket.is_reduced())
      store(relay.sender(), sum);
    for (Hop hop : relay.hops) {
      has[hop.to] = has.at(hop.from);
      store(hop.to, has[hop.to]);
    }
  }

  void store(int rank, const Payload& payload) {
    for (const auto& [element, value] : payload)
      if (!target_[rank].emplace(element, value).second) throw std::logic_error("an element comes twice");
  }

  void fill_zeros(std::uint32_t tensor) {
    const Move& move = batch_.moves[tensor];
    for (int rank : batch_.units_of_tensor(tensor).zeroed)
      for (std::size_t place = 0; place < move.target.ranks.size(); ++place)
        if (move.target.ranks[place] == rank)
          for (std::size_t element : elements_of(held_by_place(move.target, move.shape, place), move.shape))
            store(rank, {{{tensor, element}, 0}});
  }

  const ReshardPlan& plan_;
  const MoveBatch& batch_;
  std::map<int, ElementValues> source_, target_;
};

}  // namespace merak
