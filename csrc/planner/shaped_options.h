#pragma once
// The stages that the search may choose from: where a stage of some shape that begins at a point may end, and what it
// takes then, with so many stages behind it.
//
// As in graph/stage_options.h, a stage that ends later never takes less, so that the ends from one beginning on that
// fit into memory are those up to a *furthest*, and the periods of a *row* of them ascend. Rows are made as far as the
// limit on the period needs them, and shared by stages that take the same: those with as many micro-batches in flight,
// which are of one *kind*, or all, if nothing is chosen by memory but how far they go.
//
// Of stages that take the same time, those with fewer bytes crossing are to be taken: a pass is charged kTie of the
// work of all nodes for all the bytes that can cross, and a share of it for its own. So little is a rounding of the
// result, but many times that of a double.

#include <memory>
#include <span>
#include <vector>

#include "graph/stage_options.h"
#include "planner/search_model.h"

namespace merak::planner {

inline constexpr double kTie = 1e-10;

class ShapedOptions {
 public:
  // The shapes' costs have to live on.
  ShapedOptions(const std::vector<StageShape>& shapes, const SearchModel& model, const Pinned& pinned);

  int shapes() const { return static_cast<int>(shapes_.size()); }
  int segments() const { return shapes_[0].costs->segments(); }
  int devices() const { return model_.devices; }
  // No more than there are segments or devices.
  int max_stages() const { return max_stages_; }
  int width(int shape) const { return shapes_[shape].devices; }
  double weight() const { return model_.micro_batches - 1; }

  // Whether there may be so many stages, and whether a stage may have this shape.
  bool may_number(int stages) const { return pinned_.stages == 0 || stages == pinned_.stages; }
  bool may_have(int shape, int behind) const;
  // By the number of devices that are left when it begins, 0 to all: 1 where a stage of this shape may.
  const std::vector<char>& may_begin(int shape) const { return may_begin_[shape]; }

  // The last end that fits; `from` if there is none.
  int furthest(int shape, int behind, int from) const { return furthest_[row_at(shape, kind_of_[behind], from)]; }
  // The last end that the given boundaries leave, whether it fits or not.
  int last_end(int from) const { return options_[0]->last_end(from); }
  // To be called before row().
  void limit_periods(double period_s);
  // Those that end at from + 1, from + 2, ... within the limit, and fit. Valid until the next limit.
  std::span<const StageOption> row(int shape, int behind, int from);
  double missing_bytes(int shape, int behind, Interval stage) const {
    return options_[shape]->missing_bytes(kind_of_[behind], stage);
  }

  // Lower bounds on the sum of passes, and on every bottleneck.
  double least_passes_s() const { return least_passes_s_; }
  double least_period_s() const { return least_period_s_; }
  // An upper bound on a period, whether it fits or not.
  double most_period_s() const { return most_period_s_; }

 private:
  struct Row {
    std::vector<StageOption> options;
    int most = 0;    // that fit, for some stage that shares it
    int within = 0;  // the limit
    int limit = -1;  // the number of the limit that this is of
  };

  std::size_t row_at(int shape, int kind, int from) const {
    return (static_cast<std::size_t>(shape) * kinds_.size() + kind) * segments() + from;
  }
  bool are_alike(int shape) const;
  StageOption option(int shape, int kind, Interval stage) const;
  void find_kinds();
  void add_shape(int number);
  void find_bounds();
  void extend(Row& row, int shape, int kind, int from) const;

  std::vector<StageShape> shapes_;
  SearchModel model_;
  Pinned pinned_;
  Recompute recompute_;
  int max_stages_ = 0;
  std::vector<InFlight> kinds_;
  std::vector<int> kind_of_;                            // by stages behind
  std::vector<std::unique_ptr<PipelineModel>> models_;  // by shape; of its stages each is of one kind
  std::vector<std::unique_ptr<StageOptions>> options_;  // by shape
  std::vector<std::vector<char>> may_begin_;            // by shape, by devices left
  std::vector<int> furthest_;                           // by shape, by kind, by point
  std::vector<Row> rows_;                               // likewise; the first kind's where all kinds are alike
  double limit_s_ = 0;
  int limits_ = 0;
  double tie_s_per_byte_ = 0;
  double least_passes_s_ = 0, least_period_s_ = 0, most_period_s_ = 0;
};

}  // namespace merak::planner
