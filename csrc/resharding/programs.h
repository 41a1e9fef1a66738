#pragma once
// A plan as programs. Rank by rank, from its tensors of the source to its tensors of the target (local_tensors.h):
//
//   begin of a relay    packs a segment from its source and sends it; sends it from there where it is contiguous
//   chain that reduces  receives a partial sum, adds its own values, sends it on; the last one divides an average
//   hop                 receives a segment, passes it on to all hops that begin here, and unpacks it; where a segment
//                       is contiguous in the target, it is received there at once and passed on from there
//   holder that wants   copies from its source to its target
//
// In order. Every rank goes through the transfers in the plan's order, through a transfer's segments in rising order,
// and of a segment first the chain, then the hops. So the n-th message of a route is the n-th at both its ends, and a
// step waits, for memory or for a message, only for what comes before it in this order on all ranks: no circle.
//
// In flight. Of the transfers that a rank sends to other hosts (or passes on), the k-th starts when the one
// `in_flight` places before it has left; of those that it receives from other hosts likewise. What stays inside a host
// waits for nobody.
//
// Memory. Input and output must not overlap. Scratch memory never exceeds the cap: with little, transfers share
// windows, then windows have fewer slots (staging.h), then segments are smaller than the plan's. Segments must be of
// one size at both ends: all ranks state the same cap.

#include <optional>

#include "resharding/plan.h"
#include "transport/program.h"

namespace merak {

// Of every kind of staging one window, of segments of one unit of payload each.
inline constexpr std::size_t kLeastStagingBytes = 96;

// Throws std::invalid_argument for a cap below kLeastStagingBytes.
void check_staging(std::size_t most_staging_bytes);

// Throws as check_staging() does. `host_of`: by rank, as in Network.
Program reshard_program(const ReshardPlan& plan, const MoveBatch& batch, const std::vector<int>& host_of, int rank,
                        std::size_t most_staging_bytes);

// What a step moves: of a transfer of the plan, which bytes of its bucket's payload. Of copies that a rank makes from
// its own source: no transfer.
struct Carried {
  static constexpr std::uint32_t kNoTransfer = 0xffffffff;
  std::uint32_t transfer = kNoTransfer;
  std::size_t begin = 0, end = 0;

  bool operator==(const Carried&) const = default;
};

// By step of that program.
std::vector<Carried> carried_by_steps(const ReshardPlan& plan, const MoveBatch& batch, const std::vector<int>& host_of,
                                      int rank, std::size_t most_staging_bytes);

// What the reducer of an operation has to be made for.
struct ReducedAs {
  DType dtype = DType::kNone;
  Reduction reduction = Reduction::kNone;  // kAverage where a sum is divided
  int divisor = 1;

  bool operator==(const ReducedAs&) const = default;
};

// Nothing where nothing is reduced. An operation has one reducer: throws std::invalid_argument where tensors would need
// several. (A sum goes with an average: only steps of the average divide.) Such a batch has to be moved in parts.
std::optional<ReducedAs> reduced_as(const MoveBatch& batch);

}  // namespace merak
