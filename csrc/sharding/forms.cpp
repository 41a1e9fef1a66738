#include "sharding/forms.h"

#include <algorithm>

namespace merak::sharding {

// Operands broadcast against the results, element by element.
void elementwise(RuleBuilder& b) {
  b.broadcast(0);
  b.rule().elementwise = true;
  const std::vector<Shape>& results = b.call().results;
  for (std::size_t other = 1; other < results.size(); ++other)  // a mask, say
    if (results[other] == results[0]) b.rule().results[other] = b.rule().results[0];
}

// The first operand's dimensions stay; those named in `dim` are needed whole. There may be several results alike.
static void along(RuleBuilder& b, std::vector<int> whole) {
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool is_whole = std::find(whole.begin(), whole.end(), dim) != whole.end();
    const int factor = b.factor(b.size(0, dim), is_whole ? FactorKind::kReplicate : FactorKind::kPass);
    for (int tensor = 0; tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.dims(tensor) == b.dims(0) && b.size(tensor, dim) == b.size(0, dim)) b.operand(tensor, dim, factor);
    for (int result = 0; result < static_cast<int>(b.call().results.size()); ++result) {
      const Shape& shape = b.call().results[result];
      if (static_cast<int>(shape.size()) != b.dims(0)) continue;
      if (shape[dim] == b.size(0, dim)) b.result(result, dim, factor);
      if (shape[dim] != b.size(0, dim)) b.replicate_result(result, dim);
    }
  }
}

void along_dim(RuleBuilder& b) { along(b, {b.call().dim("dim", b.dims(0), -1)}); }

void layer_norm(RuleBuilder& b) {
  const auto normalized = b.call().args.find("normalized_shape");
  const int last = normalized == b.call().args.end() ? 1 : static_cast<int>(normalized->second.size());
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool whole = dim >= b.dims(0) - last;
    const int factor = b.factor(b.size(0, dim), whole ? FactorKind::kReplicate : FactorKind::kPass);
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
    for (int tensor = 1; whole && tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.dims(tensor) == last) b.operand(tensor, dim - (b.dims(0) - last), factor);
  }
}

// Sums over `dim`, or over everything.
static void reduction(RuleBuilder& b, FactorKind kind) {
  std::vector<int> dims = b.call().dims("dim", b.dims(0));
  const bool keep = b.call().arg("keepdim", 0) != 0;
  int to = 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool gone = dims.empty() || std::find(dims.begin(), dims.end(), dim) != dims.end();
    const int factor = b.factor(b.size(0, dim), gone ? kind : FactorKind::kPass);
    b.operand(0, dim, factor);
    for (int result = 0; !gone && result < static_cast<int>(b.call().results.size()); ++result)
      if (!b.call().results[result].empty()) b.result(result, to, factor);  // empty: nobody uses it
    if (!gone || keep) ++to;
  }
}

void sum(RuleBuilder& b) { reduction(b, FactorKind::kReduce); }
void whole_reduction(RuleBuilder& b) { reduction(b, FactorKind::kReplicate); }

void cross_entropy(RuleBuilder& b) {  // scores [n, c, ...] or [c], targets
  const std::int64_t how = b.call().arg("reduction", 1);
  const bool probabilities = b.dims(1) == b.dims(0), weighted = b.call().operands.size() > 2 && b.dims(2) > 0;
  const int classes_at = b.dims(0) == 1 ? 0 : 1;
  const auto kind = how == 0 ? FactorKind::kPass : how == 2 ? FactorKind::kReduce : FactorKind::kReplicate;
  const auto of_rows = [&](int dim, int in_target) {  // rows that are not known to be the targets' are not divided
    return b.size(1, in_target) == b.size(0, dim) ? kind : FactorKind::kReplicate;
  };
  int of_target = 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool classes = dim == classes_at;
    const bool inside =
        classes && b.call().name == "cross_entropy_loss" && !probabilities && !weighted && b.dims(0) == 2;
    const int factor = b.factor(b.size(0, dim), !classes ? of_rows(dim, probabilities ? dim : of_target)
                                                : inside ? FactorKind::kInside
                                                         : FactorKind::kReplicate);
    b.operand(0, dim, factor);
    if (probabilities) b.operand_if_same(1, dim, factor);
    if (classes) {
      if (weighted) b.operand(2, 0, factor);
      continue;
    }
    if (!probabilities) b.operand_if_same(1, of_target, factor);
    if (how == 0) b.result(0, of_target, factor);
    ++of_target;
  }
}

// A loss of pairs of elements: as a sum over everything, or one for each.
void loss_of_pairs(RuleBuilder& b) {
  const std::int64_t how = b.call().arg("reduction", 1);
  if (how == 0) return elementwise(b);
  const bool alike = std::all_of(b.call().operands.begin(), b.call().operands.end(),
                                 [&](const Shape& shape) { return shape.empty() || shape == b.shape(0); });
  const auto kind = how == 2 && alike ? FactorKind::kReduce : FactorKind::kReplicate;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim), kind);
    for (int tensor = 0; tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.shape(tensor) == b.shape(0)) b.operand(tensor, dim, factor);
  }
}

// Rows and channels stay as they are; what comes behind is needed whole.
void by_channel(RuleBuilder& b) {
  const int kept = b.dims(0) == static_cast<int>(b.call().results[0].size()) ? std::min(2, b.dims(0)) : 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    if (dim >= kept) {
      b.replicate_operand(0, dim);
      if (dim < static_cast<int>(b.call().results[0].size())) b.replicate_result(0, dim);
      continue;
    }
    const int factor = b.factor(b.size(0, dim));
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
  }
}

// Statistics are of all rows: in training every rank needs them all, and all write the same to the running ones.
void batch_norm(RuleBuilder& b) {
  const bool training = b.call().arg("training", 1) != 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim), training ? FactorKind::kReplicate : FactorKind::kPass);
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
    for (int tensor = 1; dim == 1 && tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.dims(tensor) == 1) b.operand(tensor, 0, factor);
  }
}

void group_norm(RuleBuilder& b) {
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim), dim == 0 ? FactorKind::kPass : FactorKind::kReplicate);
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
    for (int tensor = 1; dim == 1 && tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.dims(tensor) == 1) b.operand(tensor, 0, factor);
  }
}

void replicated(RuleBuilder& b) {
  for (int tensor = 0; tensor < static_cast<int>(b.call().operands.size()); ++tensor)
    for (int dim = 0; dim < b.dims(tensor); ++dim) b.replicate_operand(tensor, dim);
  for (int result = 0; result < static_cast<int>(b.call().results.size()); ++result)
    for (int dim = 0; dim < static_cast<int>(b.call().results[result].size()); ++dim) b.replicate_result(result, dim);
}

}  // namespace merak::sharding
