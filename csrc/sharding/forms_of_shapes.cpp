#include <algorithm>
#include <utility>

#include "sharding/forms.h"

namespace merak::sharding {

void view(RuleBuilder& b) {
  reshape(b, 0, 0);
  b.rule().elementwise = true;
}

static void moved(RuleBuilder& b, const std::vector<int>& from) {  // of each dimension of the result, which it was
  for (int to = 0; to < static_cast<int>(from.size()); ++to) {
    const int factor = b.factor(b.shape(0)[from[to]]);
    b.operand(0, from[to], factor);
    b.result(0, to, factor);
  }
  b.rule().elementwise = true;
}

void transpose(RuleBuilder& b) {
  std::vector<int> from;
  for (int dim = 0; dim < b.dims(0); ++dim) from.push_back(dim);
  if (b.dims(0) >= 2) std::swap(from[b.call().dim("dim0", b.dims(0), -2)], from[b.call().dim("dim1", b.dims(0), -1)]);
  moved(b, from);
}

void permute(RuleBuilder& b) { moved(b, b.call().dims("dims", b.dims(0))); }

// A dimension of which a part is taken stays whole; so does one that is padded, or put together.
void resized(RuleBuilder& b) {
  b.rule().elementwise = true;
  const int result_dims = static_cast<int>(b.call().results[0].size());
  for (int dim = 0; dim < result_dims; ++dim) {
    const std::int64_t size = b.call().results[0][dim];
    bool same = true;
    for (const Shape& shape : b.call().operands)
      same = same && static_cast<int>(shape.size()) == result_dims && shape[dim] == size;
    const int factor = b.factor(size, same ? FactorKind::kPass : FactorKind::kReplicate);
    b.result(0, dim, factor);
    for (int tensor = 0; tensor < static_cast<int>(b.call().operands.size()); ++tensor) {
      if (b.dims(tensor) != result_dims) continue;
      if (same) b.operand(tensor, dim, factor);
      if (!same) b.replicate_operand(tensor, dim);
    }
  }
}

// A dimension that is cut into equal parts is (parts, part); each result has the part.
void parts(RuleBuilder& b) {
  const int cut = b.call().dim("dim", b.dims(0), 0);
  const std::vector<Shape>& results = b.call().results;
  const auto count = static_cast<std::int64_t>(results.size());
  const bool equal = std::all_of(results.begin(), results.end(), [&](const Shape& shape) {
    return shape.empty() || shape.at(cut) * count == b.size(0, cut);  // empty: nobody uses it
  });
  for (int dim = 0; dim < b.dims(0); ++dim) {
    if (dim == cut && !equal) {
      b.replicate_operand(0, dim);
      for (int result = 0; result < count; ++result)
        if (!results[result].empty()) b.replicate_result(result, dim);
      continue;
    }
    if (dim == cut) b.operand(0, dim, b.factor(count, FactorKind::kReplicate));
    const int factor = b.factor(dim == cut ? b.size(0, dim) / count : b.size(0, dim));
    b.operand(0, dim, factor);
    for (int result = 0; result < count; ++result)
      if (!results[result].empty()) b.result(result, dim, factor);
  }
}

// A dimension is gone: there is a result for an index of it, or for each.
void select(RuleBuilder& b) {
  const int gone = b.call().dim("dim", b.dims(0), 0);
  for (int dim = 0, to = 0; dim < b.dims(0); ++dim) {
    if (dim == gone) {
      b.replicate_operand(0, dim);
      continue;
    }
    const int factor = b.factor(b.size(0, dim));
    b.operand(0, dim, factor);
    for (int result = 0; result < static_cast<int>(b.call().results.size()); ++result)
      if (!b.call().results[result].empty()) b.result(result, to, factor);
    ++to;
  }
}

void gather(RuleBuilder& b) {  // from a tensor, by indices
  const int from = b.call().dim("dim", b.dims(0), 0);
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool same = dim != from && b.size(0, dim) == b.size(1, dim);
    const int factor = b.factor(b.size(1, dim));
    b.operand(1, dim, factor);
    b.result(0, dim, factor);
    if (same) b.operand(0, dim, factor);
    if (!same) b.replicate_operand(0, dim);
  }
}

}  // namespace merak::sharding
