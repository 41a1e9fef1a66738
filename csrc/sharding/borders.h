#pragma once
// What a rank needs of a divided dimension to compute its chunk of another one: mostly what it has, and borders of
// others'.
//
// A convolution's result at i is computed from its operand at i * stride - before and what comes behind. Both
// dimensions are cut, each into chunks of its own size, so a chunk of the result needs an interval of the operand that
// reaches beyond the rank's own chunk, and beyond its neighbours' if those are small. Only what a rank has not travels.
// GSPMD calls it halo exchange (arXiv:2105.04663, section 4.3); there windows are the same on all ranks, here each rank
// has its intervals, so that nothing has to divide evenly.

#include <array>
#include <utility>
#include <vector>

#include "sharding/mesh.h"
#include "sharding/rule.h"

namespace merak::sharding {

struct Range {
  std::int64_t begin = 0, end = 0;

  bool operator==(const Range&) const = default;
};

// By rank.
struct Borders {
  std::vector<Range> have;                                     // what the rank has of the operand's dimension
  std::vector<std::array<Range, 2>> need;                      // the second where the interval goes on at the other end
  std::vector<std::pair<std::int64_t, std::int64_t>> padding;  // before and behind what is needed
  std::vector<std::int64_t> lengths;                           // of the result's chunks
};

// Whether each rank of one axis has one chunk of a dimension: only so can a window's be divided.
bool is_in_chunks(const Pieces& pieces);

// `from` may be undivided: then every rank has all of it.
Borders borders_of(const Window& window, const Pieces& from, const Pieces& to, const Mesh& mesh);

// Whether some rank needs something else than what it has.
bool is_exchanged(const Borders& borders);

// The most elements of the dimension that any rank sends to others, and that any receives of others.
std::int64_t most_sent(const Borders& borders);
std::int64_t most_received(const Borders& borders);

}  // namespace merak::sharding
