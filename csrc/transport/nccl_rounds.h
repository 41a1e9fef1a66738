#pragma once
// In which order devices issue the steps of a program, so that a library without tags carries its messages.
//
// NCCL's messages have no tags: the k-th send of rank a to rank b that is issued meets the k-th receive from a that b
// issues. And they block: what stands later on a rank's stream waits until the group of messages before it has met its
// other ends. Steps that each rank issued as they became ready would therefore meet wrongly, or wait in a circle. The
// order must be known beforehand, the same on all ranks; it is worked out here from the programs of all of them, which
// every rank can compute.
//
// A *message* is a send and its receive (the n-th with the n-th, see program.h); *work* is a reduce or a copy. Steps
// are dealt into *rounds*; a message is in the same round at both ends. Each rank issues its part of round 0, then that
// of round 1, and so on; of each round first the work, then the messages as one group, both in order of index. Round by
// round:
//
// 1. all work that waits for nothing any more is in this round;
// 2. of the messages whose two ends wait for nothing any more, those of each route (from one rank to another), lowest
//    number first, are in this round until they fill `route_bytes`; at least one is.
//
// The limit is what makes a chain a pipeline: without it, all segments that a root could send would go in one group,
// and the next rank could pass none on before it had all.
//
// Why nothing meets wrongly: both ends of a message issue it in the same round, and, within it, in order of index; on
// one route, that is the order of numbers at both ends.
//
// Why nothing hangs: let all ranks have finished the rounds before r. All of them then reach their part of r, since
// only work, which waits for nobody, stands between. Every message of r has its two ends in r, and the messages of a
// group progress together; so r ends on all ranks. And some round is always possible while steps are left: a message
// that waits for itself, through whatever ranks, would be a circle in the graph of events that validate.h looks for (an
// edge of ours, from a step to a message that comes after it at either end, is a path there, from the step's end by
// way of the receive's grant to the start of the send, and from it to the ends of both).
//
// Why memory is safe: give the work of round r the time 2r, and its messages the time 2r + 1. Time never falls
// along an edge of that graph (without grants), and rises along each from the end of a step to the start of one that
// comes after it, but from work to work of the same rank and time, which keep the order of their indices. So two steps
// of a rank that validate() found to be one after the other are issued so, also where only a path through other ranks
// orders them; and a rank's stream does things as they were issued.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/program.h"

namespace merak {

// One rank's part of a round: first the work, then the messages as one group.
struct Round {
  std::uint32_t number = 0;
  std::vector<std::uint32_t> work;      // steps, in order of index
  std::vector<std::uint32_t> messages;  // steps, in order of index

  bool operator==(const Round&) const = default;
};

using Rounds = std::vector<Round>;  // of one rank, by number; those in which it has nothing to do are left out

// Long enough that starting a group, tens of microseconds, is little beside it. V bytes through a chain of p ranks take
// V / route_bytes + p - 2 rounds of route_bytes each: for long chains of few bytes, less is better.
inline constexpr std::size_t kRouteBytes = 4 * 1024 * 1024;

// The rounds of every rank. Needs programs that validate() accepts; throws std::logic_error when it sees that they do
// not match or wait in a circle. Takes time in proportion to the steps of all ranks.
std::vector<Rounds> nccl_rounds(const std::vector<Program>& programs, std::size_t route_bytes = kRouteBytes);

}  // namespace merak
