#pragma once
// How long a schedule takes: a simulation of its events.
//
// Every rank does its actions in order. F, B, I, W and R keep it busy for as long as their stage needs. A message is
// *ready* once it was sent and its receive was posted, or, of *buffered* messages, once it was sent; it then takes its
// turn on the links (links.h), occupies them for its seconds, and arrives its latency later. A WAIT lasts until then.
// Sends are asynchronous, unless communication is *blocking*: then a rank that sends does nothing until the message has
// arrived, and messages are buffered. Reductions run beside all else, one after the other on each rank; with blocking
// communication the rank waits for them.
//
// A schedule without communication is given the default one first (communication.h).

#include <vector>

#include "pipeline/memory.h"
#include "pipeline/schedule.h"

namespace merak::pipeline {

struct StageSeconds {
  double forward = 0, backward = 0, backward_input = 0, backward_weight = 0, recompute = 0, reduce = 0;
};

struct EdgeCost {
  double value_s = 0, gradient_s = 0;  // on the wire
  double latency_s = 0;
  double bytes = 0;  // of a receive's buffer
};

struct Costs {
  std::vector<StageSeconds> seconds;  // by stage
  std::vector<StageBytes> bytes;      // by stage
  std::vector<EdgeCost> edges;        // as the schedule's edges
  bool blocking = false, buffered = false, shared_links = false;
};

struct ActionSpan {
  double start_s = 0, end_s = 0;
};

struct MessageSpan {
  Message message;
  double sent_s = 0, start_s = 0, end_s = 0;  // it left the producer; was on the wire; had arrived
};

struct Simulation {
  Schedule schedule;  // the one that ran, with communication
  double seconds = 0;
  std::vector<std::vector<ActionSpan>> actions;  // by rank, as the schedule's
  std::vector<MessageSpan> messages;             // in the order of their arrival
  std::vector<double> busy_s;                    // by rank, computing
  PeakMemory memory;

  // The share of its time in which a rank does not compute.
  double bubble(std::size_t rank) const;
  double bubble() const;
};

// Throws std::invalid_argument for a schedule that check() refuses, and for costs that are negative, not finite or of
// another number of stages or edges.
Simulation simulate(const Schedule& schedule, const Costs& costs);

}  // namespace merak::pipeline
