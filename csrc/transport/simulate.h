#pragma once
// How long programs would take on a given cluster: an event simulation of all ranks, for tables, pictures and tests of
// formulas. It moves no bytes; a thousand ranks take seconds.
//
// The model. Every host has one link that carries bytes in each direction at once, through a switch that never blocks:
// what leaves a host arrives `latency_s` later and then queues for the receiver's link. Ranks of one host reach each
// other by memory, each with a path of its own in each direction. A rank does one thing at a time: `per_message_s` for
// each message, when it is sent and when it has come, and reduces and copies. Of the sends that are ready, the one with
// the lowest index goes first; at most two of a rank are under way at once, as a socket's buffer has it. Receives are
// granted as the engine grants them (validate.h), and a grant takes a latency.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "transport/program.h"

namespace merak {

struct SimulatedCluster {
  std::vector<int> host_of;  // by rank; any numbers
  double latency_s = 0, latency_inside_s = 0;
  double seconds_per_byte = 0;         // of a host's link, each direction
  double seconds_per_byte_inside = 0;  // of a rank's path to the others of its host, each direction
  double per_message_s = 0;
  double reduce_seconds_per_byte = 0;     // of reduces and copies
  std::size_t at_once_bytes = 64 * 1024;  // all messages of a rank to a peer together: up to this, without grants
};

struct SimulatedStep {
  int rank;
  std::uint32_t step;
  double start_s, end_s;  // of a send: until it has left; of a receive: from when it arrives
};

struct Simulation {
  double seconds = 0;                             // until the last step is done
  std::map<int, std::size_t> bytes_leaving_host;  // to other hosts
  std::vector<SimulatedStep> trace;               // in no particular order; empty unless asked for
};

// `program_of(rank)` is called once for each rank. Throws std::logic_error when the programs do not match or deadlock.
Simulation simulate(const SimulatedCluster& cluster, const std::function<Program(int rank)>& program_of,
                    bool with_trace = false);

}  // namespace merak
