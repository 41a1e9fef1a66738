#pragma once
// What time costs: the constants of every formula in this room.

#include <cstddef>

#include "collectives/topology.h"

namespace merak {

struct Costs {
  // Between hosts; each host has one link that carries this much in each direction at once.
  double latency_s = 60e-6;                 // from a send's start to its arrival, for a message of no bytes
  double seconds_per_byte = 1.0 / 119.6e6;  // of payload: 1 Gbit/s Ethernet, TCP
  // Between ranks of one host.
  double latency_inside_s = 30e-6;
  double seconds_per_byte_inside = 1.0 / 1.5e9;
  // A rank's own work, one thing at a time.
  double per_message_s = 15e-6;  // each message, at the sender and at the receiver
  double reduce_seconds_per_byte = 1.0 / 4e9;

  bool operator==(const Costs&) const = default;
};

// The link that one rank's messages take, with the letters of the formulas.
struct LinkCosts {
  double latency_s;                // a
  double seconds_per_byte;         // b
  double per_message_s;            // m
  double reduce_seconds_per_byte;  // g

  // From the start of a send to the end of the receive: a + 2m + bytes * b.
  double message_s(std::size_t bytes) const {
    return latency_s + 2 * per_message_s + static_cast<double>(bytes) * seconds_per_byte;
  }
  double reduce_s(std::size_t bytes) const { return static_cast<double>(bytes) * reduce_seconds_per_byte; }
};

LinkCosts inside_link(const Costs& costs);
LinkCosts between_link(const Costs& costs);

// The slowest link of a chain or ring in host-major order: each host's link carries one rank's messages.
LinkCosts chain_link(const Topology& topology, const Costs& costs);

// What a segment meets on the average on its way around a ring in host-major order.
LinkCosts average_link(const Topology& topology, const Costs& costs);

// The link where every rank sends alike to all others: those of one host share what crosses its link.
LinkCosts shared_link(const Topology& topology, const Costs& costs);

}  // namespace merak
