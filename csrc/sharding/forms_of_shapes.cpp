#include <algorithm>
#include <numeric>
#include <utility>

#include "sharding/forms.h"

namespace merak::sharding {

void view(RuleBuilder& b) {
  reshape(b, 0, 0);
  b.rule().elementwise = true;
  const std::vector<Shape>& operands = b.call().operands;  // the second one is only there for its shape
  if (operands.size() > 1 && operands[1] == b.call().results[0]) b.rule().operands[1] = b.rule().results[0];
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

void reversed(RuleBuilder& b) {
  std::vector<int> from(b.dims(0));
  std::iota(from.rbegin(), from.rend(), 0);
  moved(b, from);
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

// What is zero on one side of a diagonal.
void triangle(RuleBuilder& b) {
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim), dim + 2 < b.dims(0) ? FactorKind::kPass : FactorKind::kReplicate);
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
  }
}

// Operands broadcast against each other: each has a result.
void broadcast_together(RuleBuilder& b) {
  const std::vector<Shape>& results = b.call().results;
  b.rule().elementwise = true;
  const auto used = std::find_if(results.begin(), results.end(), [](const Shape& shape) { return !shape.empty(); });
  if (used == results.end()) return;
  const auto first = static_cast<std::size_t>(used - results.begin());
  b.broadcast(static_cast<int>(first));
  for (std::size_t other = first + 1; other < results.size(); ++other)
    if (!results[other].empty()) b.rule().results[other] = b.rule().results[first];
}

void gather(RuleBuilder& b) {  // from a tensor, by indices
  const int from = b.call().dim("dim", b.dims(0), 0);
  for (int dim = 0; dim < b.dims(0); ++dim) {
    // Where the tensor is longer than the indices, what is at a position of these is at the same one there.
    const bool same = b.size(0, dim) == b.size(1, dim);
    const bool apart = dim == from || same;
    const int factor = b.factor(b.size(1, dim), apart ? FactorKind::kPass : FactorKind::kReplicate);
    b.operand(1, dim, factor);
    b.result(0, dim, factor);
    if (dim != from && same) b.operand(0, dim, factor);
    if (dim == from || !same) b.replicate_operand(0, dim);
  }
}

// Some tokens of each sequence, [sequences, tokens, ...], by an index [sequences, kept], which is the last operand:
// which tokens they are is known only where all are.
void tokens(RuleBuilder& b) {
  const int index = static_cast<int>(b.call().operands.size()) - 1;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int factor = dim == 1 ? -1 : b.factor(b.size(0, dim));
    for (int tensor = 0; tensor < index; ++tensor)
      dim == 1 ? b.replicate_operand(tensor, dim) : b.operand(tensor, dim, factor);
    if (dim == 0) b.operand(index, dim, factor);
    if (dim == 1) b.replicate_operand(index, dim);
    dim == 1 ? b.replicate_result(0, dim) : b.result(0, dim, factor);
  }
}

}  // namespace merak::sharding
