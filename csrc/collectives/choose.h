#pragma once
// Which program carries out a collective: of all algorithms that can do it, the cheapest by the cost model.
//
// choose() is a pure function. All ranks of a group call it with the same shape, topology and costs (but for what the
// shape calls local), and get programs of the same algorithm that fit together.
//
// What the buffers of a program hold; n is the group's size and `bytes` is that of the shape:
//
//   kind            kInput                        kOutput                           bytes
//   broadcast       unused                        message: the root's, everyone's   the message
//   all_reduce      unused                        contribution, then result         the message
//   reduce          contribution, unchanged       the root's result; others: none   the message
//   all_gather      my shard                      n shards in order of rank         a shard
//   gather          my shard                      root: n shards; others: none      a shard
//   reduce_scatter  n shards, unchanged           my shard of the result            a shard
//   scatter         root: n shards; others: none  my shard                          a shard
//   all_to_all      n parts, one for each rank    n parts, one from each rank       a part, where all are alike
//   barrier         none                          none                              0

#include <cstddef>
#include <string>
#include <vector>

#include "collectives/costs.h"
#include "collectives/topology.h"
#include "transport/program.h"
#include "transport/signature.h"

namespace merak {

struct CollectiveShape {
  OperationKind kind = OperationKind::kBarrier;
  int root = 0;                   // broadcast, reduce, scatter, gather
  std::size_t bytes = 0;          // as the table says; a multiple of element_bytes
  std::size_t element_bytes = 1;  // messages are cut between elements only

  // Local: ranks may differ. What this rank contributes (all_gather, gather, the root of reduce) or gets (the root of
  // scatter) is the same memory as its place in the larger buffer, so that it needs no copy. Reduce: kOutput holds the
  // root's contribution. Other operations ignore it.
  bool in_place = false;

  // Local: uneven all_to_all. The bytes of the part for (from) each rank, zeros allowed; `bytes` is then unused. Both
  // empty, or both of the group's size on all ranks.
  std::vector<std::size_t> send_bytes = {}, receive_bytes = {};
};

struct Choice {
  std::string algorithm;  // as in docs/collectives.md: "ring all_reduce"
  double seconds = 0;     // by the formula of the algorithm
  Program program;
};

// Throws std::invalid_argument for a rank or root outside the group, sizes that do not fit together, or a kind that is
// no collective.
Choice choose(const CollectiveShape& shape, int rank, const Topology& topology, const Costs& costs = {});

// What the algorithm that choose() takes by the default costs takes by these. Makes no program.
double seconds_of_usual(const CollectiveShape& shape, const Topology& topology, const Costs& costs);

// Every algorithm that can do it, in a fixed order that is the same on all ranks.
std::vector<Choice> candidates(const CollectiveShape& shape, int rank, const Topology& topology,
                               const Costs& costs = {});

}  // namespace merak
