#pragma once
// What happens when transfers share links: a simulation of flows, not of messages.
//
// A *flow* is a transfer that uses several resources at once, at one rate: a chain takes the same from the link of
// every host that it passes. A rate of 1 byte/s takes `weight` bytes/s of a resource: a leader that gives what it gets
// to three neighbours has a weight of 3 on its path inside. Rates are *max-min fair*: they grow alike until a resource
// is used up, which holds the flows through it; the others go on. So TCP connections share a link, by and large.
//
// Flows begin in order. A *lane* is where they queue: each lane admits its flows in that order, as many at once as the
// *window* says, and a flow begins when all its lanes have admitted it. (A rank has a lane in each direction, since it
// can keep its own order, but not that of its neighbours, with whom it shares a link.) A wide window lets one flow's
// latency hide behind another's bytes; but what is passed on in segments takes its last segments to the end at the rate
// that sharing leaves.

#include <cstddef>
#include <vector>

namespace merak {

struct Use {
  std::size_t resource = 0;
  double weight = 0;

  bool operator==(const Use&) const = default;
};

struct Flow {
  std::vector<Use> uses;
  std::vector<std::size_t> lanes = {};
  double bytes = 0;
  // The last byte arrives so much later than the rate has let it go, and then so many bytes later at its last rate.
  double latency_s = 0, trailing_bytes = 0;
};

struct Span {
  double start_s = 0, end_s = 0;
};

// When each flow begins and ends, by the bandwidth of each resource.
std::vector<Span> share_links(const std::vector<Flow>& flows, const std::vector<double>& bytes_per_s, int window);

}  // namespace merak
