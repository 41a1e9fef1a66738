#pragma once
// The cut that takes the least time, for one stage a rank, found by dynamic programming.
//
// The time of a step is the sum of the stages' passes plus m - 1 times the *bottleneck*, the longest period. With the
// bottleneck limited to P, the least sum of passes follows from the back: that of stages s to S - 1 from point a on is
// the least, over the ends b of stage s with a period of at most P, of its pass plus that of stages s + 1 to S - 1 from
// b on. Call it G(P); it falls as P grows. The best cut is the least G(P) + (m - 1) P:
//
//   1. Some cut is found greedily: for a limit P each stage goes as far as it may; P is bisected. With T its time and F
//      the seconds of all nodes, no better cut has a bottleneck above (T - F) / (m - 1).
//   2. Only options within that limit are looked at, and only points that stage s can reach from the front, and from
//      which the later stages reach the end.
//   3. The least bottleneck there is, by the same recursion with a maximum in place of a sum, and G of it.
//   4. From the limit downwards: each G(P) comes with a cut of bottleneck P' <= P. No cut with a bottleneck in [P', P]
//      is better; and no better cut has a bottleneck above (T - G(P)) / (m - 1), T being the best time so far. So P
//      goes on just below the lower of the two, until the least bottleneck is passed.
//
// Of cuts that take the same time, but for rounding, that with fewer bytes crossing is taken. Memory limits what is an
// option (stage_options.h). Time: a pass of the recursion goes through some C^2 options, with C points, whatever S is,
// since a stage has some C / S of them to end at.

#include <optional>
#include <vector>

#include "graph/stage_options.h"

namespace merak {

// Points, as in Cut; nothing if no cut fits. Needs one stage a rank and no more stages than segments. Among several
// stages a rank `weight`, m - 1 otherwise, is what the bottleneck counts.
std::optional<std::vector<int>> exact_cut(StageOptions& options, double weight, double all_nodes_s);

}  // namespace merak
