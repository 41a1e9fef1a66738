#pragma once
// The plan of a batch of moves: which relays carry which part of which bucket, and in what order. Plain data, made by a
// pure function of what all ranks know, so that all make the same plan; carrying it out decides nothing.
//
// All tensors of a batch are one problem. Candidates are made, and the one that takes least by the model is the plan:
//
//   1. Buckets are dealt to relays of one shape: point to point, chain or striped (relay.h). A bucket with several
//      possible senders may also be cut, so that they share it.
//   2. Senders and order are chosen: by list scheduling (list_schedule.h), or senders by what their links have to do in
//      all (balance.h) and then the order.
//   3. What that takes, with 1, 2, 4 or 8 transfers in flight, is simulated (link_sharing.h). More in flight have to
//      win more than what they lose by sharing links unevenly.
//
// It ends when a candidate takes no longer than the lower bound (lower_bound.h). What stays inside hosts is the same in
// all candidates.

#include <vector>

#include "resharding/relay.h"

namespace merak {

// What a plan is made of, but for what stays inside a host (relay.h says what they are).
enum class PlanShape { kPointToPoint, kChain, kStriped };
const char* name(PlanShape shape);

// Bytes begin to before end of a bucket's payload, from its sender (or contributors) to the receivers of the relay.
struct Transfer {
  std::uint32_t bucket = 0;
  std::size_t begin = 0, end = 0;
  Relay relay;
  std::size_t segment_bytes = 0;  // what a rank passes on at once
  double start_s = 0, end_s = 0;  // as the model has it

  std::size_t bytes() const { return end - begin; }
  bool operator==(const Transfer&) const = default;
};

// A plan that was weighed. Every rank starts its transfers in order, as many at once as in_flight says: of those that
// it sends to other hosts (or passes on), and of those that it receives from them.
struct Candidate {
  PlanShape shape = PlanShape::kChain;
  bool cut = false;       // large buckets in pieces, so that several senders share them
  bool balanced = false;  // senders chosen by what their links have to do, not by when they are free
  int in_flight = 1;      // transfers to, and from, other hosts that a rank has under way at once
  double seconds = 0;

  bool operator==(const Candidate&) const = default;
};

struct ReshardPlan {
  std::vector<Bucket> buckets;
  // In the order in which every rank starts those that it takes part in. Ranks that hold what they want are in none:
  // they copy it from their own source.
  std::vector<Transfer> transfers;
  Candidate chosen;
  std::vector<Candidate> candidates;
  double bound_s = 0;  // no plan can take less

  double seconds() const { return chosen.seconds; }
  bool operator==(const ReshardPlan&) const = default;
};

ReshardPlan make_plan(const MoveBatch& batch, const Network& network);

}  // namespace merak
