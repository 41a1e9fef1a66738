#pragma once
// From one layout of a tensor to another: which collectives, over which axes.
//
// On an axis a tensor may be divided, be the same everywhere, or be a *partial* sum, whose terms are still to be added
// up. The steps go axis by axis, the minor ones of a dimension first:
//
//   all_reduce       a partial sum becomes the same everywhere
//   reduce_scatter   a partial sum becomes divided
//   all_gather       a divided dimension becomes whole
//   all_to_all       another dimension becomes divided in its place
//   slice            each rank takes its part of what is the same everywhere: nothing travels
//   borders          each rank gets an interval that is mostly what it has; what it has not, of others (borders.h)
//   interval         the same of what every rank has all of: nothing travels
//
// The last two are no way between layouts, but come behind all others where an operation needs more than its part.
//
// In the backward each becomes its transpose: the gradient of what is the same everywhere is the same everywhere. Where
// an operation uses a tensor that is the same everywhere to compute something that is not, each rank has a part of its
// gradient, and *vary* adds those up; forward it is nothing. So an all-gather whose result varies at once is, in the
// backward, a reduce-scatter. (These are the two conjugate pairs of Megatron-LM, and jax.shard_map's rules for
// varying values.)

#include <vector>

#include "sharding/borders.h"
#include "sharding/program.h"

namespace merak::sharding {

enum class StepKind { kAllReduce, kReduceScatter, kAllGather, kAllToAll, kSlice, kVary, kBorders, kInterval };

const char* name(StepKind kind);

struct Step {
  StepKind kind = StepKind::kSlice;
  Axes axes;           // one group of ranks
  int dim = -1;        // that becomes whole, or divided
  int piece = 0;       // of it
  Pieces pieces = {};  // of the dimension, while it is divided
  int to_dim = -1;     // all_to_all: that becomes divided
  int to_piece = 0;
  Pieces to_pieces = {};
  bool varies = false;        // all_gather: its result is used for what differs between ranks
  double bytes = 0;           // that a rank sends in the forward
  double backward_bytes = 0;  // and in the backward
  Borders borders = {};
};

struct State {
  Layout layout;
  Axes partial = {};
};

// `varies`: over which axes the result is used to compute what differs between ranks. `bytes` are the whole tensor's.
std::vector<Step> steps_between(const Mesh& mesh, const State& from, const State& to, const Axes& varies, double bytes,
                                bool has_gradient);

double bytes_of(const std::vector<Step>& steps);

}  // namespace merak::sharding
