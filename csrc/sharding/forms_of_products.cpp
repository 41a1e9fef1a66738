#include <algorithm>
#include <tuple>

#include "sharding/forms.h"

namespace merak::sharding {

// ... x k times k x n, with leading dimensions that are broadcast. `second` is where the matrices are.
static void product(RuleBuilder& b, int first, int second) {
  const int result_dims = static_cast<int>(b.call().results[0].size());
  const Shape& result = b.call().results[0];
  const int rows = b.dims(first) >= 2 ? 1 : 0, columns = b.dims(second) >= 2 ? 1 : 0;
  const int inner = b.factor(b.shape(first).back(), FactorKind::kReduce);
  b.operand(first, b.dims(first) - 1, inner);
  b.operand(second, b.dims(second) - 1 - columns, inner);
  const int batch = result_dims - rows - columns;
  for (int dim = 0; dim < batch; ++dim) {
    const int factor = b.factor(result[dim]);
    b.result(0, dim, factor);
    const int in_first = b.dims(first) - 1 - rows - (batch - dim);
    const int in_second = b.dims(second) - 1 - columns - (batch - dim);
    if (in_first >= 0 && b.size(first, in_first) == result[dim]) b.operand(first, in_first, factor);
    if (in_second >= 0 && b.size(second, in_second) == result[dim]) b.operand(second, in_second, factor);
  }
  if (rows) {
    const int factor = b.factor(result[batch]);
    b.operand(first, b.dims(first) - 2, factor);
    b.result(0, batch, factor);
  }
  if (columns) {
    const int factor = b.factor(result.back());
    b.operand(second, b.dims(second) - 1, factor);
    b.result(0, result_dims - 1, factor);
  }
}

// What is added to a product is broadcast against the result.
static void added(RuleBuilder& b, int tensor) {
  const TensorFactors result = b.rule().results[0];
  b.rule().added = tensor;
  for (int back = 1; back <= b.dims(tensor); ++back) {
    const int dim = b.dims(tensor) - back, other = static_cast<int>(result.size()) - back;
    if (b.size(tensor, dim) == b.call().results[0][other])
      for (int factor : result[other]) b.operand(tensor, dim, factor);
  }
}

void matmul(RuleBuilder& b) { product(b, 0, 1); }
void addmm(RuleBuilder& b) {
  product(b, 1, 2);
  added(b, 0);
}

void linear(RuleBuilder& b) {
  const int inner = b.factor(b.shape(0).back(), FactorKind::kReduce), outer = b.factor(b.shape(1).front());
  for (int dim = 0; dim + 1 < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim));
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
  }
  b.operand(0, b.dims(0) - 1, inner);
  b.operand(1, 1, inner);
  b.operand(1, 0, outer);
  b.result(0, b.dims(0) - 1, outer);
  if (b.call().operands.size() > 2 && b.dims(2) == 1) {
    b.operand(2, 0, outer);
    b.rule().added = 2;
  }
}

void embedding(RuleBuilder& b) {
  b.operand(0, 0, b.factor(b.size(0, 0), FactorKind::kPartial));
  for (int dim = 0; dim < b.dims(1); ++dim) {
    const int factor = b.factor(b.size(1, dim));
    b.operand(1, dim, factor);
    b.result(0, dim, factor);
  }
  const int columns = b.factor(b.size(0, 1));
  b.operand(0, 1, columns);
  b.result(0, b.dims(1), columns);
}

void attention(RuleBuilder& b) {  // query [..., h, s, d], key [..., h, t, d], value [..., h, t, e], mask
  const int dims = b.dims(0);
  const std::int64_t keys = dims >= 3 ? b.size(1, dims - 3) : 1;
  std::vector<DimFactors> leading;
  for (int dim = 0; dim + 2 < dims; ++dim) {
    const bool grouped = dim == dims - 3 && b.size(0, dim) != keys;
    const int factor = b.factor(grouped ? keys : b.size(0, dim));
    leading.push_back({factor});
    if (grouped) leading.back().push_back(b.factor(b.size(0, dim) / keys));
    for (int part : leading.back()) {
      b.operand(0, dim, part);
      b.result(0, dim, part);
    }
    for (int tensor : {1, 2}) b.operand(tensor, dim, factor);
  }
  const bool causal = b.call().arg("is_causal", 0) != 0;
  const int rows = b.factor(b.size(0, dims - 2), causal ? FactorKind::kReplicate : FactorKind::kPass);
  const int columns = b.factor(b.size(1, dims - 2), FactorKind::kReplicate);
  const int inner = b.factor(b.size(0, dims - 1), FactorKind::kReplicate);
  const int outer = b.factor(b.size(2, dims - 1), FactorKind::kReplicate);
  for (auto [tensor, dim, factor] : {std::tuple{0, dims - 2, rows},
                                     {0, dims - 1, inner},
                                     {1, dims - 2, columns},
                                     {1, dims - 1, inner},
                                     {2, dims - 2, columns},
                                     {2, dims - 1, outer}})
    b.operand(tensor, dim, factor);
  b.result(0, dims - 2, rows);
  b.result(0, dims - 1, outer);
  if (b.call().operands.size() < 4) return;
  const int mask_dims = b.dims(3);
  for (int back = 1; back <= mask_dims; ++back) {
    const int dim = mask_dims - back, at = dims - back;
    if (b.size(3, dim) == 1 || at < 0) continue;
    if (back == 1) b.operand(3, dim, columns);
    if (back == 2) b.operand(3, dim, rows);
    if (back > 2)
      for (int part : leading[at]) b.operand(3, dim, part);
  }
}

// Rows, numbers of experts, weights, and what the experts are made of: of that named `of_experts`, one each.
void experts(RuleBuilder& b) {
  const int rows = b.factor(b.size(0, 0));
  const int experts = b.factor(b.call().arg("experts", 1), FactorKind::kRouted);
  b.rule().routes = rows;
  for (int operand = 0; operand < 3; ++operand) b.operand(operand, 0, rows);
  for (int operand = 0; operand < 3; ++operand)
    for (int dim = 1; dim < b.dims(operand); ++dim) b.replicate_operand(operand, dim);
  const std::vector<int> of_experts = b.call().dims("of_experts", 0);
  for (int operand = 3; operand < static_cast<int>(b.call().operands.size()); ++operand) {
    const bool is_of_experts = std::count(of_experts.begin(), of_experts.end(), operand - 3) > 0;
    for (int dim = 0; dim < b.dims(operand); ++dim)
      if (dim == 0 && is_of_experts) {
        b.operand(operand, dim, experts);
      } else {
        b.replicate_operand(operand, dim);
      }
  }
  b.result(0, 0, rows);
  for (int dim = 1; dim < static_cast<int>(b.call().results[0].size()); ++dim) b.replicate_result(0, dim);
}

}  // namespace merak::sharding
