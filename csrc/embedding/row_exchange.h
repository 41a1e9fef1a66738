#pragma once
// An all-to-all of rows that are made when they are sent, and used when they have come.
//
// Every rank has a *part* for each, so many rows of one width. Parts are cut into segments of whole rows, which travel
// in cycles as those of collectives/pairwise_all_to_all.h do: a segment waits for the one all_to_all_window cycles
// earlier to come from the rank as far on the other side. A segment is made just before it is sent, and used as soon as
// it has come, so that this work goes on beside the messages of others. What a rank has for itself goes the same way,
// without a message.
//
// Bytes on the wire: all parts but the own one. Scratch: a window (sparse/window.h) of segments to each rank; and from
// each a window, or, where what has come is kept, all parts.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "transport/program.h"

namespace merak {

struct Part {
  std::size_t rows = 0, row_bytes = 0;
  std::size_t bytes() const { return rows * row_bytes; }
};

struct Segment {  // rows of the part for, or from, a rank
  int peer;
  std::uint32_t begin, end;
  Place place;  // where they lie
};

struct RowExchange {
  int rank;
  std::vector<Part> send, receive;  // by rank
  // Appends what makes them, after those steps; returns the step.
  std::function<std::uint32_t(Program& program, const Segment& segment, std::vector<std::uint32_t> after)> make;
  // Appends what uses them, after the step `come`; returns the step after which they are not needed any more.
  std::function<std::uint32_t(Program& program, const Segment& segment, std::uint32_t come)> use;
  bool keep = false;  // what has come
};

// Returns where the part from each rank lies, one after the other, in one buffer, where it is kept.
std::vector<Place> exchange_rows(Program& program, const RowExchange& exchange);

}  // namespace merak
