#include "resharding/buckets.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

namespace merak {
namespace {

// Who holds, and how it is reduced: equal for all units of a bucket.
using Origin = std::tuple<Contributors, Reduction, std::size_t, DType>;

class Filler {
 public:
  explicit Filler(const MoveBatch& batch) : batch_(batch) {}

  std::vector<Bucket> run() {
    std::vector<std::uint32_t> tensors(batch_.moves.size());
    std::iota(tensors.begin(), tensors.end(), 0);
    std::stable_sort(tensors.begin(), tensors.end(), [this](std::uint32_t a, std::uint32_t b) {
      return element_bytes(batch_.moves[a].dtype) > element_bytes(batch_.moves[b].dtype);
    });
    for (std::uint32_t tensor : tensors) add(tensor);
    return std::move(buckets_);
  }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  void add(std::uint32_t tensor) {
    const MoveUnits& move = batch_.units_of_tensor(tensor);
    const DType dtype = batch_.moves[tensor].dtype;
    std::vector<std::uint32_t> origin, goal;  // by tile: a number for what it says
    const bool reduced = move.reduction != Reduction::kNone;
    for (const Contributors& contributors : move.source.contributors)
      origin.push_back(number(origins_, Origin(contributors, move.reduction, move.divisor, reduced ? dtype : DType())));
    for (const std::vector<int>& receivers : move.receivers) goal.push_back(number(goals_, receivers));
    for (std::uint32_t u = 0; u < move.units.size(); ++u) {
      const Unit& unit = move.units[u];
      Bucket& bucket = bucket_of(move, unit, origin[unit.source_tile], goal[unit.target_tile]);
      bucket.units.push_back({tensor, u});
      bucket.bytes += unit.elements * element_bytes(dtype);
    }
  }

  template <typename Key>
  static std::uint32_t number(std::map<Key, std::uint32_t>& numbers, const Key& key) {
    const auto next = static_cast<std::uint32_t>(numbers.size());
    return numbers.try_emplace(key, next).first->second;
  }

  Bucket& bucket_of(const MoveUnits& move, const Unit& unit, std::uint32_t origin, std::uint32_t goal) {
    if (known_.size() <= origin) known_.resize(origin + 1);
    if (known_[origin].size() <= goal) known_[origin].resize(goal + 1, kNone);
    std::uint32_t& at = known_[origin][goal];
    if (at == kNone) {
      at = static_cast<std::uint32_t>(buckets_.size());
      buckets_.push_back({.contributors = move.contributors_of(unit),
                          .receivers = move.receivers_of(unit),
                          .reduction = move.reduction,
                          .divisor = move.divisor,
                          .units = {}});
    }
    return buckets_[at];
  }

  const MoveBatch& batch_;
  std::map<Origin, std::uint32_t> origins_;
  std::map<std::vector<int>, std::uint32_t> goals_;
  std::vector<std::vector<std::uint32_t>> known_;  // [origin][goal]: the bucket
  std::vector<Bucket> buckets_;
};

auto key_of(const Layout& layout) {
  std::vector<std::tuple<PlacementKind, int, std::size_t, Reduction>> placements;
  for (const Placement& p : layout.placements) placements.emplace_back(p.kind, p.dim, p.split_factor, p.reduction);
  return std::tuple(layout.mesh_shape, layout.ranks, placements);
}

}  // namespace

bool Bucket::is_held_by(int rank) const {
  const std::vector<int>& holders = contributors.front();
  return !is_reduced() && std::find(holders.begin(), holders.end(), rank) != holders.end();
}

MoveBatch cut(std::vector<Move> moves) {
  MoveBatch batch{.moves = std::move(moves), .kind = {}, .units = {}};
  const auto key = [](const Move& move) { return std::tuple(move.shape, key_of(move.source), key_of(move.target)); };
  std::map<decltype(key(batch.moves[0])), std::uint32_t> known;
  for (const Move& move : batch.moves) {
    const auto next = static_cast<std::uint32_t>(batch.units.size());
    const auto [at, is_new] = known.try_emplace(key(move), next);
    if (is_new) batch.units.push_back(units_of(move));
    batch.kind.push_back(at->second);
  }
  return batch;
}

std::vector<Bucket> buckets_of(const MoveBatch& batch) { return Filler(batch).run(); }

std::vector<Slice> slices_of(const MoveBatch& batch, const Bucket& bucket, std::size_t begin, std::size_t end) {
  std::vector<Slice> slices;
  std::size_t at = 0;  // where the unit begins in the payload
  for (UnitOfBatch unit : bucket.units) {
    const std::size_t bytes = batch.bytes(unit), element = bytes / batch.unit(unit).elements;
    const std::size_t first = std::max(begin, at), last = std::min(end, at + bytes);
    if (first < last) slices.push_back({unit, (first - at) / element, (last - at) / element});
    at += bytes;
  }
  return slices;
}

}  // namespace merak
