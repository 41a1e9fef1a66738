#pragma once
// The table of all algorithms: what each is called, what it does, when it can be used, what it costs.

#include <span>

#include "collectives/choose.h"

namespace merak {

// What one rank is asked to do.
struct Task {
  const CollectiveShape& shape;
  int rank;
  const Topology& topology;
};

// fits() and seconds() look at no local part of the shape, so that all ranks choose alike. For every shape of a kind,
// at least one algorithm fits.
struct Algorithm {
  const char* name;
  OperationKind kind;
  bool (*fits)(const CollectiveShape& shape, const Topology& topology);
  double (*seconds)(const CollectiveShape& shape, const Topology& topology, const Costs& costs);
  Program (*program)(const Task& task, const Costs& costs);
};

std::span<const Algorithm> algorithms();

}  // namespace merak
