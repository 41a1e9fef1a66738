#pragma once
// Whether a plan does what was asked: finds out by following it, not by how it was made.
//
// For every tensor and every rank of its target: the units that have it as a receiver are disjoint and make up the tile
// of the rank. For every bucket and every receiver that does not hold it: the bytes that transfers bring make up the
// payload, none of them twice. In every transfer: the sender holds the payload, or the chain has one rank for each
// contributor; each hop starts at a rank that has the payload by then and ends at one that wants it and does not have
// it.

#include <string>

#include "resharding/plan.h"

namespace merak {

// What is wrong first, or "".
std::string fault_of(const ReshardPlan& plan, const MoveBatch& batch);

}  // namespace merak
