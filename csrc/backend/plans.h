#pragma once
// The programs of one group: chosen by shape, and the last ones kept, so that a small message does not pay for making
// its program again.

#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "collectives/choose.h"
#include "transport/prepared_program.h"

namespace merak {

struct ShapeOrder {
  bool operator()(const CollectiveShape& a, const CollectiveShape& b) const;
};

// Thread-safe.
class Plans {
 public:
  using Prepared = std::shared_ptr<const PreparedProgram>;

  Plans(int rank, Topology topology, std::size_t capacity = 256);

  // What choose() returns for that shape. Of the plans kept, that which was not used for the longest time is forgotten.
  // Those of very many steps are not kept: making them costs little beside running them, and keeping them much memory.
  Prepared get(const CollectiveShape& shape);

  const Topology& topology() const { return topology_; }

 private:
  using Entry = std::pair<CollectiveShape, Prepared>;

  const int rank_;
  const Topology topology_;
  const std::size_t capacity_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the one used last comes first
  std::map<CollectiveShape, std::list<Entry>::iterator, ShapeOrder> index_;
};

}  // namespace merak
