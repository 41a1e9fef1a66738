#pragma once
// What happens when transfers share links: a simulation of flows, not of messages.
//
// A *flow* is a transfer that uses several resources at once, at one rate: a chain takes the same from the link of
// every host that it passes. A rate of 1 byte/s takes `weight` bytes/s of a resource: a leader that gives what it gets
// to three neighbours has a weight of 3 on its path inside. Rates are *max-min fair*: they grow alike until a resource
// is used up, which holds the flows through it; the others go on. So TCP connections share a link, by and large.
//
// Flows begin in order. A *lane* is a resource with a limited number of flows under way: each lane admits its flows in
// that order, as many as the *window* says, and a flow begins when all its lanes have admitted it. A window of 1 is
// list scheduling. A wide window lets one flow's latency hide behind another's bytes; but what is passed on in segments
// takes its last segments to the end at the rate that sharing leaves.

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
  double bytes = 0;
  double latency_s = 0;       // the last byte arrives so much after the rate has let it go,
  double trailing_bytes = 0;  // and after so many bytes more at its last rate
};

struct Span {
  double start_s = 0, end_s = 0;
};

struct SharedLinks {
  std::vector<double> bytes_per_s;  // by resource
  std::size_t lanes = 0;            // the resources before this number are lanes
};

// When each flow begins and ends.
std::vector<Span> share_links(const std::vector<Flow>& flows, const SharedLinks& links, int window);

}  // namespace merak
