#include "resharding/strided_parts.h"

#include <algorithm>

namespace merak {
namespace {

// `repeats` runs of `count` indices along one dimension; positions are those in either tensor.
struct Comb {
  std::size_t at = 0, from = 0;
  std::size_t count = 0, repeats = 1;
  std::size_t at_step = 0, from_step = 0;
};

std::vector<std::size_t> strides_of(const Region& region, std::size_t element_bytes) {
  std::vector<std::size_t> strides(region.dims.size());
  for (std::size_t dim = strides.size(), stride = element_bytes; dim-- > 0; stride *= count(region.dims[dim]))
    strides[dim] = stride;
  return strides;
}

class Parts {
 public:
  Parts(const Region& unit, const Region& at, const Region& from, std::size_t element_bytes)
      : unit_(unit),
        at_(at),
        from_(from),
        element_bytes_(element_bytes),
        at_strides_(strides_of(at, element_bytes)),
        from_strides_(strides_of(from, element_bytes)),
        within_(unit.dims.size() + 1, 1) {
    for (std::size_t dim = unit.dims.size(); dim-- > 0;) within_[dim] = within_[dim + 1] * count(unit.dims[dim]);
  }

  std::vector<StridedPart> run(std::size_t begin, std::size_t end) {
    cut(0, begin, end, {});
    return std::move(parts_);
  }

 private:
  // Elements begin to before end of what is left when the coordinates of all dimensions before `dim` are fixed, each to
  // the one index of `fixed`.
  void cut(std::size_t dim, std::size_t begin, std::size_t end, std::vector<RunList> fixed) {
    if (begin >= end) return;
    if (dim == unit_.dims.size()) return add_box(std::move(fixed));
    const std::size_t row = within_[dim + 1], first = begin / row, last = end / row;
    const auto with = [&](Run rows) {
      std::vector<RunList> more = fixed;
      more.push_back(at_positions(unit_.dims[dim], {rows}));
      return more;
    };
    if (begin % row != 0) cut(dim + 1, begin % row, std::min(row, end - first * row), with({first, first + 1}));
    const std::size_t whole = first + (begin % row != 0);
    if (whole < last) {
      std::vector<RunList> box = with({whole, last});
      box.insert(box.end(), unit_.dims.begin() + static_cast<std::ptrdiff_t>(dim) + 1, unit_.dims.end());
      add_box(std::move(box));
    }
    if (end % row != 0 && last >= whole) cut(dim + 1, 0, end % row, with({last, last + 1}));
  }

  void add_box(std::vector<RunList> box) {
    std::vector<std::vector<Comb>> combs;
    for (std::size_t dim = 0; dim < box.size(); ++dim) combs.push_back(combs_of(box[dim], dim));
    StridedPart part;
    part.copy.piece_bytes = element_bytes_;
    add_dims(combs, box.size(), part);
  }

  std::vector<Comb> combs_of(const RunList& list, std::size_t dim) const {
    std::vector<Comb> combs;
    for (Run run : list) {
      const std::size_t at = position_of(at_.dims[dim], run.begin), from = position_of(from_.dims[dim], run.begin);
      if (!combs.empty() && goes_on(combs.back(), at, from, run.count()))
        ++combs.back().repeats;
      else
        combs.push_back({at, from, run.count()});
    }
    return combs;
  }

  // Whether a run is the next of a comb; a comb of one run takes any distance that rises.
  static bool goes_on(Comb& comb, std::size_t at, std::size_t from, std::size_t count) {
    if (comb.count != count) return false;
    if (comb.repeats == 1) comb.at_step = at - comb.at, comb.from_step = from - comb.from;
    return at == comb.at + comb.repeats * comb.at_step && from == comb.from + comb.repeats * comb.from_step;
  }

  // A part for every choice of a comb for each of the first `dims` dimensions, the last one innermost. A copy that has
  // no room for further dimensions is made several.
  void add_dims(const std::vector<std::vector<Comb>>& combs, std::size_t dims, const StridedPart& inner) {
    if (dims == 0) return parts_.push_back(inner);
    const std::size_t at_stride = at_strides_[dims - 1], from_stride = from_strides_[dims - 1];
    for (const Comb& comb : combs[dims - 1]) {
      StridedPart part = inner;
      part.at += comb.at * at_stride, part.from += comb.from * from_stride;
      if (part.copy.dim_count + 2 <= StridedCopy::kMostDims) {
        part.copy.add_outer({comb.count, at_stride, from_stride});
        part.copy.add_outer({comb.repeats, comb.at_step * at_stride, comb.from_step * from_stride});
        add_dims(combs, dims - 1, part);
        continue;
      }
      for (std::size_t repeat = 0; repeat < comb.repeats; ++repeat)
        for (std::size_t i = 0; i < comb.count; ++i) {
          StridedPart one = part;
          one.at += (repeat * comb.at_step + i) * at_stride, one.from += (repeat * comb.from_step + i) * from_stride;
          add_dims(combs, dims - 1, one);
        }
    }
  }

  const Region &unit_, &at_, &from_;
  const std::size_t element_bytes_;
  const std::vector<std::size_t> at_strides_, from_strides_;
  std::vector<std::size_t> within_;  // elements of the unit that share the coordinates of the first so many dimensions
  std::vector<StridedPart> parts_;
};

}  // namespace

std::vector<StridedPart> strided_parts(const Region& unit, std::size_t begin, std::size_t end, const Region& at,
                                       const Region& from, std::size_t element_bytes) {
  return Parts(unit, at, from, element_bytes).run(begin, end);
}

}  // namespace merak
