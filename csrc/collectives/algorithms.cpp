#include "collectives/algorithms.h"

#include <algorithm>
#include <numeric>

#include "collectives/chain_broadcast.h"
#include "collectives/chain_reduce.h"
#include "collectives/cut.h"
#include "collectives/direct_all_gather.h"
#include "collectives/direct_all_reduce.h"
#include "collectives/direct_gather.h"
#include "collectives/direct_reduce_scatter.h"
#include "collectives/direct_scatter.h"
#include "collectives/dissemination_barrier.h"
#include "collectives/doubling_all_gather.h"
#include "collectives/doubling_all_reduce.h"
#include "collectives/hierarchical_all_gather.h"
#include "collectives/hierarchical_all_reduce.h"
#include "collectives/hierarchical_reduce_scatter.h"
#include "collectives/hierarchy.h"
#include "collectives/pairwise_all_to_all.h"
#include "collectives/ring_all_gather.h"
#include "collectives/ring_all_reduce.h"
#include "collectives/ring_reduce_scatter.h"
#include "collectives/tree_broadcast.h"
#include "collectives/tree_reduce.h"

namespace merak {
namespace {

using Shape = CollectiveShape;

// Above this size an algorithm that handles messages whole would keep the engine's thread from all else.
bool is_small(const Shape& shape, const Topology&) { return shape.bytes <= kLargestStep; }
// Sent to all at once, without a wait: more than this, and ranks end far apart (pairwise_all_to_all.h).
bool is_small_for_all(const Shape& shape, const Topology& topology) {
  return is_small(shape, topology) && shape.bytes * (topology.host_of.size() - 1) <= kAllToAllBytesUnderWay;
}
bool on_hierarchy(const Shape&, const Topology& topology) { return has_hierarchy(topology); }
bool always(const Shape&, const Topology&) { return true; }

// -- broadcast

double tree_broadcast_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return tree_broadcast_seconds(topology, shape.bytes, costs);
}
Program tree_broadcast_program(const Task& task, const Costs&) {
  return tree_broadcast(task.topology, task.shape.root, task.rank, task.shape.bytes);
}

double chain_broadcast_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return chain_seconds(topology, shape.bytes, false, costs);
}
Program chain_broadcast_program(const Task& task, const Costs& costs) {
  const auto& [shape, rank, topology] = task;
  const std::vector<int> order = host_major_order(topology, shape.root);
  const std::size_t segment_bytes = chain_segment_bytes(topology, shape.bytes, 1, costs);
  return chain_broadcast(order, position_in(order, rank), shape.bytes, segment_bytes);
}

// -- reduce

double tree_reduce_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return tree_reduce_seconds(topology, shape.bytes, costs);
}
Program tree_reduce_program(const Task& task, const Costs&) {
  return tree_reduce(task.topology, task.shape.root, task.rank, task.shape.bytes, task.shape.in_place);
}

double chain_reduce_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return chain_seconds(topology, shape.bytes, true, costs);
}
Program chain_reduce_program(const Task& task, const Costs& costs) {
  const auto& [shape, rank, topology] = task;
  std::vector<int> order = host_major_order(topology, shape.root);
  std::reverse(order.begin(), order.end());
  const std::size_t segment_bytes = chain_segment_bytes(topology, shape.bytes, shape.element_bytes, costs);
  return chain_reduce(order, position_in(order, rank), shape.bytes, segment_bytes, shape.in_place);
}

// -- all_reduce

double doubling_all_reduce_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return doubling_all_reduce_seconds(topology, shape.bytes, costs);
}
Program doubling_all_reduce_program(const Task& task, const Costs&) {
  const std::vector<int> order = host_major_order(task.topology);
  return doubling_all_reduce(order, position_in(order, task.rank), task.shape.bytes);
}

double direct_all_reduce_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return direct_all_reduce_seconds(topology, shape.bytes, costs);
}
Program direct_all_reduce_program(const Task& task, const Costs&) {
  return direct_all_reduce(task.rank, task.topology.size(), task.shape.bytes, task.shape.element_bytes);
}

double ring_all_reduce_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return ring_all_reduce_seconds(topology, shape.bytes, costs);
}
Program ring_all_reduce_program(const Task& task, const Costs&) {
  const auto& [shape, rank, topology] = task;
  const std::vector<int> order = host_major_order(topology);
  const std::size_t shard_bytes = shard_of(shape.bytes, shape.element_bytes, topology.size(), 0).bytes;
  return ring_all_reduce({order, position_in(order, rank)}, shape.bytes, shape.element_bytes,
                         ring_segment_bytes(shard_bytes, shape.element_bytes));
}

double hierarchical_all_reduce_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return hierarchical_all_reduce_seconds(topology, shape.bytes, costs);
}
Program hierarchical_all_reduce_program(const Task& task, const Costs&) {
  return hierarchical_all_reduce(task.topology, task.rank, task.shape.bytes, task.shape.element_bytes);
}

// -- all_gather

double direct_all_gather_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return direct_all_gather_seconds(topology, shape.bytes, costs);
}
Program direct_all_gather_program(const Task& task, const Costs&) {
  return direct_all_gather(task.rank, task.topology.size(), task.shape.bytes, task.shape.in_place);
}

double doubling_all_gather_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return doubling_all_gather_seconds(topology, shape.bytes, costs);
}
Program doubling_all_gather_program(const Task& task, const Costs&) {
  return doubling_all_gather(task.rank, task.topology.size(), task.shape.bytes, task.shape.in_place);
}

double ring_all_gather_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return ring_seconds(topology.size() - 1, shape.bytes, false, chain_link(topology, costs),
                      average_link(topology, costs));
}
Program ring_all_gather_program(const Task& task, const Costs&) {
  const auto& [shape, rank, topology] = task;
  const std::vector<int> order = host_major_order(topology);
  return ring_all_gather({order, position_in(order, rank)}, shape.bytes,
                         ring_segment_bytes(shape.bytes, shape.element_bytes), shape.in_place);
}

double hierarchical_all_gather_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return hierarchical_all_gather_seconds(topology, shape.bytes, costs);
}
Program hierarchical_all_gather_program(const Task& task, const Costs&) {
  return hierarchical_all_gather(task.topology, task.rank, task.shape.bytes, task.shape.in_place);
}

// -- reduce_scatter

double direct_reduce_scatter_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return direct_reduce_scatter_seconds(topology, shape.bytes, costs);
}
Program direct_reduce_scatter_program(const Task& task, const Costs&) {
  return direct_reduce_scatter(task.rank, task.topology.size(), task.shape.bytes);
}

double ring_reduce_scatter_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return ring_seconds(topology.size() - 1, shape.bytes, true, chain_link(topology, costs),
                      average_link(topology, costs));
}
Program ring_reduce_scatter_program(const Task& task, const Costs&) {
  const auto& [shape, rank, topology] = task;
  const std::vector<int> order = host_major_order(topology);
  return ring_reduce_scatter({order, position_in(order, rank)}, shape.bytes,
                             ring_segment_bytes(shape.bytes, shape.element_bytes));
}

double hierarchical_reduce_scatter_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return hierarchical_reduce_scatter_seconds(topology, shape.bytes, costs);
}
Program hierarchical_reduce_scatter_program(const Task& task, const Costs&) {
  return hierarchical_reduce_scatter(task.topology, task.rank, task.shape.bytes, task.shape.element_bytes);
}

// -- all_to_all

double pairwise_all_to_all_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return pairwise_all_to_all_seconds(topology, shape.bytes, costs);
}
Program pairwise_all_to_all_program(const Task& task, const Costs&) {
  const auto& [shape, rank, topology] = task;
  if (!shape.send_bytes.empty())
    return pairwise_all_to_all(rank, shape.send_bytes, shape.receive_bytes, kAllToAllSegment);
  const std::vector<std::size_t> even(topology.host_of.size(), shape.bytes);
  return pairwise_all_to_all(rank, even, even, kAllToAllSegment);
}

// -- scatter, gather, barrier

double rooted_cost(const Shape& shape, const Topology& topology, const Costs& costs) {
  return direct_scatter_seconds(topology, shape.root, shape.bytes, costs);
}
Program direct_scatter_program(const Task& task, const Costs&) {
  return direct_scatter(task.rank, task.topology.size(), task.shape.root, task.shape.bytes, task.shape.in_place);
}
Program direct_gather_program(const Task& task, const Costs&) {
  return direct_gather(task.rank, task.topology.size(), task.shape.root, task.shape.bytes, task.shape.in_place);
}

double barrier_cost(const Shape&, const Topology& topology, const Costs& costs) {
  return dissemination_barrier_seconds(topology, costs);
}
Program barrier_program(const Task& task, const Costs&) {
  return dissemination_barrier(task.rank, task.topology.size());
}

using enum OperationKind;

constexpr Algorithm kAlgorithms[] = {
    {"tree broadcast", kBroadcast, is_small, tree_broadcast_cost, tree_broadcast_program},
    {"chain broadcast", kBroadcast, always, chain_broadcast_cost, chain_broadcast_program},
    {"tree reduce", kReduce, is_small, tree_reduce_cost, tree_reduce_program},
    {"chain reduce", kReduce, always, chain_reduce_cost, chain_reduce_program},
    {"doubling all_reduce", kAllReduce, is_small, doubling_all_reduce_cost, doubling_all_reduce_program},
    {"direct all_reduce", kAllReduce, is_small, direct_all_reduce_cost, direct_all_reduce_program},
    {"ring all_reduce", kAllReduce, always, ring_all_reduce_cost, ring_all_reduce_program},
    {"hierarchical all_reduce", kAllReduce, on_hierarchy, hierarchical_all_reduce_cost,
     hierarchical_all_reduce_program},
    {"direct all_gather", kAllGather, is_small_for_all, direct_all_gather_cost, direct_all_gather_program},
    {"doubling all_gather", kAllGather, is_small, doubling_all_gather_cost, doubling_all_gather_program},
    {"ring all_gather", kAllGather, always, ring_all_gather_cost, ring_all_gather_program},
    {"hierarchical all_gather", kAllGather, on_hierarchy, hierarchical_all_gather_cost,
     hierarchical_all_gather_program},
    {"direct reduce_scatter", kReduceScatter, is_small, direct_reduce_scatter_cost, direct_reduce_scatter_program},
    {"ring reduce_scatter", kReduceScatter, always, ring_reduce_scatter_cost, ring_reduce_scatter_program},
    {"hierarchical reduce_scatter", kReduceScatter, on_hierarchy, hierarchical_reduce_scatter_cost,
     hierarchical_reduce_scatter_program},
    {"pairwise all_to_all", kAllToAll, always, pairwise_all_to_all_cost, pairwise_all_to_all_program},
    {"direct scatter", kScatter, always, rooted_cost, direct_scatter_program},
    {"direct gather", kGather, always, rooted_cost, direct_gather_program},
    {"dissemination barrier", kBarrier, always, barrier_cost, barrier_program},
};

}  // namespace

std::span<const Algorithm> algorithms() { return kAlgorithms; }

}  // namespace merak
