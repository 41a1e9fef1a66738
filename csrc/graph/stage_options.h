#pragma once
// The stages that a search may choose from: where a stage that begins at a point may end, and what it takes then.
//
// From one beginning, a stage that ends later never takes less time or memory, whatever it recomputes. So with a limit
// on the period and the budget of its rank, the ends that are possible are those up to a *furthest*, which is found by
// binary search, and the periods of a *row* of options ascend. A stage has a rank of its own here.
//
// Rows are made when first asked for, and shared by stages that cannot be told apart: same micro-batches in flight,
// same budget, same thing to recompute.

#include <vector>

#include "graph/interval_costs.h"
#include "graph/pipeline_model.h"
#include "graph/stage_memory.h"

namespace merak {

struct StageOption {
  double period_s = 0, pass_s = 0;
};

class StageOptions {
 public:
  // `forced`: points where a stage has to begin, ascending. The arguments have to live on.
  StageOptions(const IntervalCosts& costs, const PipelineModel& model, const Recompute& recompute,
               const std::vector<int>& forced);

  int stages() const { return model_.stages(); }
  int segments() const { return costs_.segments(); }
  double crossing_bytes(Interval stage) const { return costs_.received_bytes(stage) + costs_.returned_bytes(stage); }

  StageOption option(int stage, Interval interval) const;
  // The last end of stage `stage`, from that point on, within a period and its budget; `from` if there is none.
  int furthest(int stage, int from, double period_s) const;
  // The option for each end from + 1, from + 2, ... up to what furthest() says for the limit.
  const std::vector<StageOption>& row(int stage, int from, double period_limit_s);
  // Bytes above the budget, 0 or less if it fits; as little as recomputation can make it.
  double missing_bytes(int stage, Interval interval) const;
  // The last point that forced boundaries leave to a stage from there on.
  int last_end(int from) const { return last_end_[from]; }

 private:
  StageOption option(Interval interval, int prefix_end) const;
  bool is_within(int stage, Interval interval, double period_s) const;

  const IntervalCosts& costs_;
  const PipelineModel& model_;
  const Recompute& recompute_;
  std::vector<int> last_end_;                                // by point
  std::vector<int> kind_of_;                                 // by stage: which rows it shares
  std::vector<std::vector<std::vector<StageOption>>> rows_;  // by kind, by point
};

}  // namespace merak
