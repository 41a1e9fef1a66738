#include "sharding/reshard.h"

#include <algorithm>

namespace merak::sharding {
namespace {

bool contains(const Axes& axes, int axis) { return std::find(axes.begin(), axes.end(), axis) != axes.end(); }

// Which piece has an axis as its last, and nothing of the dimension is divided behind it; -1 if there is none.
struct Place {
  int dim = -1, piece = 0;
};

class Steps {
 public:
  Steps(const Mesh& mesh, const State& from, const State& to, double bytes, bool has_gradient)
      : mesh_(mesh), now_(from), to_(to), bytes_(bytes), has_gradient_(has_gradient) {}

  std::vector<Step> find(const Axes& varies) {
    for (int dim = 0; dim < dims(); ++dim) gather_what_differs(dim);
    for (int axis : Axes(now_.partial)) add_up(axis);
    for (int dim = 0; dim < dims(); ++dim)
      while (axes_of(now_.layout[dim]).size() < axes_of(to_.layout[dim]).size()) slice(dim);
    vary(varies);
    return std::move(steps_);
  }

 private:
  int dims() const { return static_cast<int>(to_.layout.size()); }

  // The axes of a dimension that may stay: those that both layouts begin with, if they cut it alike.
  std::size_t shared_axes(int dim) const {
    const Axes have = axes_of(now_.layout[dim]), want = axes_of(to_.layout[dim]);
    std::size_t shared = 0;
    while (shared < have.size() && shared < want.size() && have[shared] == want[shared]) ++shared;
    return shape_with(now_.layout[dim], shared) == shape_with(to_.layout[dim], shared) ? shared : 0;
  }

  // A dimension's layout with its first axes only.
  Pieces shape_with(const Pieces& pieces, std::size_t axes) const {
    Pieces kept = pieces;
    for (Piece& piece : kept) {
      const std::size_t taken = std::min(axes, piece.axes.size());
      piece.axes.resize(taken);
      axes -= taken;
    }
    return canonical(kept, mesh_);
  }

  void gather_what_differs(int dim) {
    while (axes_of(now_.layout[dim]).size() > shared_axes(dim)) {
      Pieces& pieces = now_.layout[dim];
      auto last = static_cast<int>(pieces.size()) - 1;
      while (pieces[last].axes.empty()) --last;
      const int axis = pieces[last].axes.back();
      const Place there = next_place_of(axis, dim);
      const double whole = local_bytes() * mesh_[axis].size;
      const Pieces divided = pieces;
      pieces[last].axes.pop_back();
      const double travels = whole * (mesh_[axis].size - 1) / mesh_[axis].size;
      if (there.dim >= 0) {
        add_axis(there);
        push({.kind = StepKind::kAllToAll,
              .axes = {axis},
              .dim = dim,
              .piece = last,
              .pieces = divided,
              .to_dim = there.dim,
              .to_piece = there.piece,
              .to_pieces = now_.layout[there.dim],
              .bytes = travels / mesh_[axis].size,
              .backward_bytes = travels / mesh_[axis].size});
      } else {
        push({.kind = StepKind::kAllGather,
              .axes = {axis},
              .dim = dim,
              .piece = last,
              .pieces = divided,
              .bytes = travels});
      }
      if (pieces_are_plain(dim)) now_.layout[dim] = canonical(now_.layout[dim], mesh_);
    }
  }

  bool pieces_are_plain(int dim) const {
    return std::all_of(now_.layout[dim].begin(), now_.layout[dim].end(),
                       [](const Piece& piece) { return piece.axes.empty(); });
  }

  // Where the wanted layout has an axis next in another dimension.
  Place next_place_of(int axis, int but) const {
    for (int dim = 0; dim < dims(); ++dim) {
      if (dim == but || axes_of(to_.layout[dim]).empty()) continue;
      const std::size_t have = axes_of(now_.layout[dim]).size();
      const Axes want = axes_of(to_.layout[dim]);
      if (shared_axes(dim) == have && want.size() > have && want[have] == axis) return {dim, piece_of_axis(dim, have)};
    }
    return {};
  }

  // The piece of the wanted layout that has its axis of that number.
  int piece_of_axis(int dim, std::size_t number) const {
    int piece = 0;
    while (number >= to_.layout[dim][piece].axes.size()) number -= to_.layout[dim][piece++].axes.size();
    return piece;
  }

  void add_axis(Place place) {
    now_.layout[place.dim] = shape_of_wanted(place.dim, axes_of(now_.layout[place.dim]).size() + 1);
  }

  // The wanted layout's pieces with so many axes, not merged, so that their numbers stay.
  Pieces shape_of_wanted(int dim, std::size_t axes) const {
    Pieces kept = to_.layout[dim];
    for (Piece& piece : kept) {
      const std::size_t taken = std::min(axes, piece.axes.size());
      piece.axes.resize(taken);
      axes -= taken;
    }
    return kept;
  }

  void add_up(int axis) {
    now_.partial.erase(std::find(now_.partial.begin(), now_.partial.end(), axis));
    if (contains(to_.partial, axis)) return;
    const Place there = next_place_of(axis, -1);
    const double part = static_cast<double>(mesh_[axis].size - 1) / mesh_[axis].size * local_bytes();
    if (there.dim >= 0) {
      add_axis(there);
      push({.kind = StepKind::kReduceScatter,
            .axes = {axis},
            .dim = there.dim,
            .piece = there.piece,
            .pieces = now_.layout[there.dim],
            .bytes = part,
            .backward_bytes = part});
    } else {
      push({.kind = StepKind::kAllReduce, .axes = {axis}, .bytes = 2 * part});
    }
  }

  void slice(int dim) {
    const std::size_t have = axes_of(now_.layout[dim]).size();
    const int axis = axes_of(to_.layout[dim])[have];
    const double part = static_cast<double>(mesh_[axis].size - 1) / mesh_[axis].size * local_bytes();
    now_.layout[dim] = shape_of_wanted(dim, have + 1);
    push({.kind = StepKind::kSlice,
          .axes = {axis},
          .dim = dim,
          .piece = piece_of_axis(dim, have),
          .pieces = now_.layout[dim],
          .backward_bytes = part});
  }

  // An all-gather over the same axis takes it over: its transpose is then a reduce-scatter.
  void vary(const Axes& varies) {
    for (int axis : varies) {
      if (!has_gradient_) break;
      const auto gather = std::find_if(steps_.begin(), steps_.end(), [&](const Step& step) {
        return step.kind == StepKind::kAllGather && step.axes == Axes{axis};
      });
      if (gather != steps_.end()) {
        gather->backward_bytes = gather->bytes;
        gather->varies = true;
        continue;
      }
      const double part = static_cast<double>(mesh_[axis].size - 1) / mesh_[axis].size * local_bytes();
      push({.kind = StepKind::kVary, .axes = {axis}, .backward_bytes = 2 * part});
    }
  }

  double local_bytes() const {
    double part = bytes_;
    for (const Pieces& pieces : now_.layout) part /= ranks_along(mesh_, axes_of(pieces));
    return part;
  }

  void push(Step step) {
    if (!has_gradient_) step.backward_bytes = 0;
    steps_.push_back(std::move(step));
  }

  const Mesh& mesh_;
  State now_;
  const State& to_;
  double bytes_;
  bool has_gradient_;
  std::vector<Step> steps_;
};

}  // namespace

const char* name(StepKind kind) {
  switch (kind) {
    case StepKind::kAllReduce:
      return "all_reduce";
    case StepKind::kReduceScatter:
      return "reduce_scatter";
    case StepKind::kAllGather:
      return "all_gather";
    case StepKind::kAllToAll:
      return "all_to_all";
    case StepKind::kSlice:
      return "slice";
    case StepKind::kVary:
      return "vary";
    case StepKind::kBorders:
      return "borders";
    case StepKind::kInterval:
      return "interval";
  }
  return "";
}

std::vector<Step> steps_between(const Mesh& mesh, const State& from, const State& to, const Axes& varies, double bytes,
                                bool has_gradient) {
  return Steps(mesh, from, to, bytes, has_gradient).find(varies);
}

double bytes_of(const std::vector<Step>& steps) {
  double bytes = 0;
  for (const Step& step : steps) bytes += step.bytes + step.backward_bytes;
  return bytes;
}

}  // namespace merak::sharding
