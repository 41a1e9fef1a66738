#include "pipeline/rounds.h"

#include <algorithm>

namespace merak::pipeline {

RoundOrder in_rounds(int rank, int stages, int ranks, int microbatches, int step) {
  const int rounds = std::max(1, microbatches / ranks), of_rank = stages / ranks;
  const int shortest = microbatches / rounds, longer = microbatches % rounds;
  RoundOrder order;
  const auto pass = [&](ActionList& actions, ActionKind kind, int stage, int begin, int end) {
    for (int microbatch = begin; microbatch < end; ++microbatch)
      actions.push_back({.kind = kind, .stage = stage, .microbatch = microbatch});
  };
  for (int round = 0, begin = 0; round < rounds; ++round) {
    const int end = begin + shortest + (round < longer ? 1 : 0);
    for (int loop = 0; loop < of_rank; ++loop) {
      pass(order.forwards, ActionKind::kForward, loop * ranks + rank, begin, end);
      pass(order.backwards, ActionKind::kBackward, (of_rank - 1 - loop) * ranks + rank, begin, end);
    }
    begin = end;
  }
  const int longest = shortest + (longer > 0 ? 1 : 0);
  order.warm_up = std::min((of_rank - 1) * longest + step * (ranks - 1 - rank), of_rank * microbatches);
  return order;
}

}  // namespace merak::pipeline
