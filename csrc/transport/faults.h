#pragma once
// What can be made to go wrong on the links of a group, for tests.

#include <cstdint>
#include <optional>

#include "transport/operation.h"

namespace merak {

struct Faults {
  // All that happens by chance is drawn from the seed, apart for each end of each link: when one thread drives all
  // ranks, the same seed gives the same run.
  std::uint64_t seed = 0;

  // The chance that a read or a write moves only a part of what it could. On links in memory the part may be nothing.
  double short_io = 0;

  // Links in memory: after each read up to so many further ones find nothing, although something is there. This
  // reorders what arrives from different peers, never what arrives from one.
  int hold_reads = 0;

  // Links in memory: bytes can be read so long after they were written, and up to `jitter` longer.
  Clock::duration latency{0}, jitter{0};

  struct Cut {
    int a = 0, b = 0;         // the link between these ranks dies
    std::uint64_t bytes = 0;  // when so many bytes were written to it, both ways together
  };
  std::optional<Cut> cut = {};

  struct Corruption {
    int from = 0, to = 0;
    std::uint64_t offset = 0;  // of the byte of this stream that arrives with its lowest bit inverted
  };
  std::optional<Corruption> corruption = {};
};

}  // namespace merak
