#pragma once
// What time costs: the constants of every formula in this room.

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

}  // namespace merak
