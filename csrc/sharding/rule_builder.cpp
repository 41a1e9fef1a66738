#include "sharding/rule_builder.h"

#include <algorithm>

namespace merak::sharding {

std::int64_t Call::arg(const std::string& name, std::int64_t otherwise) const {
  const auto found = args.find(name);
  return found == args.end() || found->second.empty() ? otherwise : found->second.front();
}

std::int64_t Call::item(const std::string& name, int index, std::int64_t otherwise) const {
  const auto found = args.find(name);
  if (found == args.end() || found->second.empty()) return otherwise;
  return found->second.size() == 1 ? found->second.front() : found->second.at(index);
}

int Call::dim(const std::string& name, int dims, int otherwise) const {
  const auto dim = static_cast<int>(arg(name, otherwise));
  return dim < 0 ? dim + dims : dim;
}

std::vector<int> Call::dims(const std::string& name, int dims_of_tensor) const {
  std::vector<int> result;
  const auto found = args.find(name);
  if (found == args.end()) return result;
  for (std::int64_t dim : found->second) result.push_back(static_cast<int>(dim < 0 ? dim + dims_of_tensor : dim));
  return result;
}

bool Rule::is_product() const {
  return operands.size() > 1 && std::any_of(factors.begin(), factors.end(), [](const Factor& factor) {
           return (factor.kind == FactorKind::kReduce || factor.kind == FactorKind::kRouted) && factor.size > 1;
         });
}

std::int64_t Rule::size_of(const DimFactors& dim) const {
  std::int64_t size = 1;
  for (int factor : dim) size *= factors[factor].size;
  return size;
}

RuleBuilder::RuleBuilder(const Call& call) : call_(call) {
  for (const Shape& shape : call.operands) rule_.operands.emplace_back(shape.size());
  for (const Shape& shape : call.results) rule_.results.emplace_back(shape.size());
}

int RuleBuilder::factor(std::int64_t size, FactorKind kind) {
  rule_.factors.push_back({size, kind});
  return static_cast<int>(rule_.factors.size()) - 1;
}

void RuleBuilder::add(TensorFactors& tensor, int dim, int factor) {
  if (rule_.factors[factor].size > 1) tensor.at(dim).push_back(factor);
}

void RuleBuilder::operand(int tensor, int dim, int factor) { add(rule_.operands.at(tensor), dim, factor); }
void RuleBuilder::result(int tensor, int dim, int factor) { add(rule_.results.at(tensor), dim, factor); }

void RuleBuilder::operand_if_same(int tensor, int dim, int factor) {
  if (call_.operands.at(tensor).at(dim) == rule_.factors[factor].size) {
    operand(tensor, dim, factor);
  } else {
    replicate_operand(tensor, dim);
  }
}

void RuleBuilder::replicate_operand(int tensor, int dim) {
  operand(tensor, dim, factor(call_.operands.at(tensor).at(dim), FactorKind::kReplicate));
}

void RuleBuilder::replicate_result(int tensor, int dim) {
  result(tensor, dim, factor(call_.results.at(tensor).at(dim), FactorKind::kReplicate));
}

void RuleBuilder::window(int tensor, int dim, int result_dim, Window window) {
  const std::int64_t in = size(tensor, dim), out = call_.results.at(0).at(result_dim);
  const bool is_apart = !window.wraps && window.before <= 0 && window.extent - window.before <= window.stride;
  if (is_apart && in == out * window.stride) {
    const int both = factor(out);
    operand(tensor, dim, both);
    operand(tensor, dim, factor(window.stride, FactorKind::kReplicate));
    result(0, result_dim, both);
    return;
  }
  DimFactors& of_result = rule_.results.at(0).at(result_dim);  // several operands may be put together along it
  if (out <= 1 || varies(in) || varies(out)) {
    replicate_operand(tensor, dim);
    if (of_result.empty()) replicate_result(0, result_dim);
    return;
  }
  if (of_result.empty()) result(0, result_dim, factor(out, FactorKind::kWindow));
  window.operand = tensor, window.dim = dim, window.result_dim = result_dim;
  window.from = factor(in, FactorKind::kWindow), window.to = of_result.front();
  operand(tensor, dim, window.from);
  rule_.windows.push_back(window);
}

std::vector<int> RuleBuilder::factors_of_result(int number) {
  std::vector<int> factors;
  const Shape& shape = call_.results[number];
  for (int dim = 0; dim < static_cast<int>(shape.size()); ++dim) {
    factors.push_back(factor(shape[dim]));
    result(number, dim, factors.back());
  }
  return factors;
}

void RuleBuilder::broadcast(int number) {
  const std::vector<int> factors = factors_of_result(number);
  const Shape& wide = call_.results[number];
  for (int tensor = 0; tensor < static_cast<int>(call_.operands.size()); ++tensor)
    for (int back = 1; back <= std::min(dims(tensor), static_cast<int>(wide.size())); ++back) {
      const int dim = dims(tensor) - back, other = static_cast<int>(wide.size()) - back;
      if (shape(tensor)[dim] == wide[other]) operand(tensor, dim, factors[other]);
    }
}

void reshape(RuleBuilder& builder, int tensor, int number) {
  const Shape& from = builder.call().operands[tensor];
  const Shape& to = builder.call().results[number];
  std::size_t i = 0, j = 0;
  std::size_t even_i = 0, even_j = 0;  // what comes before these has the same elements
  std::int64_t left = 0, right = 0;    // of the two dimensions that are compared: what has no factor yet
  while (i < from.size() || j < to.size()) {
    if (left <= 1 && right <= 1) even_i = i, even_j = j;
    if (left <= 1 && i < from.size() && from[i] <= 1) {
      ++i;
      continue;
    }
    if (right <= 1 && j < to.size() && to[j] <= 1) {
      ++j;
      continue;
    }
    if (i == from.size() || j == to.size()) break;
    if (left <= 1) left = from[i];
    if (right <= 1) right = to[j];
    const std::int64_t common = std::min(left, right);
    if (left % common != 0 || right % common != 0) break;
    const int both = builder.factor(common);
    builder.operand(tensor, static_cast<int>(i), both);
    builder.result(number, static_cast<int>(j), both);
    left /= common, right /= common;
    if (left == 1) ++i;
    if (right == 1) ++j;
  }
  // What does not fit: each dimension for itself, undivided, in place of factors that it may have had.
  const auto replace = [&](TensorFactors& dims, const Shape& shape, std::size_t begin) {
    for (std::size_t dim = begin; dim < shape.size(); ++dim) {
      dims[dim].clear();
      if (shape[dim] > 1) dims[dim].push_back(builder.factor(shape[dim], FactorKind::kReplicate));
    }
  };
  if (i < from.size() || j < to.size()) {
    replace(builder.rule().operands[tensor], from, even_i);
    replace(builder.rule().results[number], to, even_j);
  }
}

}  // namespace merak::sharding
