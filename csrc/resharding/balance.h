#pragma once
// Which way each job takes so that no resource has much more to do than others, when the order does not matter because
// many jobs are under way at once.
//
// A job in one of its ways keeps each resource that it uses busy for some seconds; the *load* of a resource is the sum
// over all jobs. The longest jobs choose first, each the way whose busiest resource is left least busy, and of such
// ways the one that adds least to the sum of the squares of all loads. Then every job may choose again, in the same
// order, until none does or kRounds rounds are over.

#include <cstdint>
#include <vector>

#include "resharding/link_sharing.h"

namespace merak {

// By job: the index of its way. `ways[job]` has at least one; `bytes_per_s`: by resource.
std::vector<std::uint32_t> balanced_ways(const std::vector<std::vector<Flow>>& ways,
                                         const std::vector<double>& bytes_per_s);

}  // namespace merak
