#pragma once
// The constants of the formulas (costs.h), measured where the ranks are.
//
// The ranks stand in a ring, host by host. All at once they pass messages on to the next: so each link between hosts
// carries one message in each direction, as the formulas have it. Of each pass every rank takes its own time, from a
// barrier to the arrival of the message, the shortest of several:
//
//   T(1), one empty message          a + 2m     latency and work
//   T(k), k empty messages           m          = (T(k) - T(1)) / (k - 1), each message's work
//   T of a long and a longer one     b          = the difference of their times by that of their bytes: what starts a
//                                               message, and what a shaped link lets pass before it slows down, is in
//                                               both
//   adding up two arrays             g
//
// In the end everyone tells everyone, and all take the median over the links of a kind; so all ranks have the same
// costs, and make the same choices.
//
// Time: 30 rounds, and the wire is busy with 4 MiB.

#include <functional>
#include <memory>
#include <vector>

#include "collectives/costs.h"
#include "collectives/topology.h"
#include "transport/buffer.h"
#include "transport/program.h"

namespace merak {

// What one rank has measured, on the link from the rank before it in the ring; seconds.
struct Measured {
  double message, messages;  // T(1), T(kMeasuredMessages)
  double less, more;         // T of kMeasuredLess and kMeasuredMore bytes
  double reduce;             // adding up kMeasuredMore bytes
};

inline constexpr int kMeasuredMessages = 33;
inline constexpr std::size_t kMeasuredLess = 256 * 1024, kMeasuredMore = 5 * kMeasuredLess;

// Carries out a program with all ranks, and returns the seconds it took here. Where it throws before the program is
// done, it keeps `memory`, which owns the buffers, until then.
using RunProgram =
    std::function<double(Program program, Buffer input, Buffer output, const std::shared_ptr<void>& memory)>;

// Called by all ranks of the group; the same costs on all. A group of one rank measures nothing.
Costs calibrate(int rank, const Topology& topology, const RunProgram& run);

// What follows from what all ranks have measured, by rank. Links of a kind that the ring has none of keep their
// defaults.
Costs costs_of(const std::vector<Measured>& measured, const Topology& topology);

}  // namespace merak
