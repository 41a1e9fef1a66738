#include "backend/plans.h"

#include <tuple>

namespace merak {
namespace {

constexpr std::size_t kMostSteps = 4096;

auto key(const CollectiveShape& shape) {
  return std::tie(shape.kind, shape.bytes, shape.root, shape.element_bytes, shape.in_place, shape.send_bytes,
                  shape.receive_bytes);
}

}  // namespace

bool ShapeOrder::operator()(const CollectiveShape& a, const CollectiveShape& b) const { return key(a) < key(b); }

Plans::Plans(int rank, Topology topology, std::size_t capacity)
    : rank_(rank), topology_(std::move(topology)), capacity_(capacity) {}

Plans::Prepared Plans::get(const CollectiveShape& shape) {
  std::lock_guard lock(mutex_);
  if (auto found = index_.find(shape); found != index_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->second;
  }
  auto prepared = std::make_shared<const PreparedProgram>(choose(shape, rank_, topology_).program);
  if (prepared->size() > kMostSteps) return prepared;
  entries_.emplace_front(shape, std::move(prepared));
  index_[shape] = entries_.begin();
  if (entries_.size() > capacity_) {
    index_.erase(entries_.back().first);
    entries_.pop_back();
  }
  return entries_.front().second;
}

}  // namespace merak
