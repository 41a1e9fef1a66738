#pragma once
// How rules are put together: factors are made, and dimensions are given to them.

#include "sharding/rule.h"

namespace merak::sharding {

class RuleBuilder {
 public:
  // Every operand and result begins without factors.
  explicit RuleBuilder(const Call& call);

  int factor(std::int64_t size, FactorKind kind = FactorKind::kPass);
  // A factor of one dimension, or of several tensors' dimensions; for sizes of 1 there is none.
  void operand(int tensor, int dim, int factor);
  void result(int tensor, int dim, int factor);
  // The same, unless the sizes differ (of what is known of them: the batch may make them equal): then it is needed
  // whole.
  void operand_if_same(int tensor, int dim, int factor);
  // A dimension that every rank needs whole.
  void replicate_operand(int tensor, int dim);
  void replicate_result(int tensor, int dim);

  // A dimension of the first result that is computed from one of an operand, as `window` says but for tensors and
  // factors. Where no rank needs anything of its neighbours they share a factor; where it depends on the batch both are
  // needed whole.
  void window(int tensor, int dim, int result_dim, Window window);

  // Operands that are broadcast against a result, as elementwise operations do.
  void broadcast(int result);
  // A factor for each dimension of a result; those dimensions of an operand with the same number are the same.
  std::vector<int> factors_of_result(int result);

  const Call& call() const { return call_; }
  // These throw std::out_of_range where there is no such tensor or dimension: the call is then not of the rule's form.
  const Shape& shape(int operand) const { return call_.operands.at(operand); }
  std::int64_t size(int operand, int dim) const { return shape(operand).at(dim); }
  bool varies(std::int64_t number) const { return call_.varying.count(number) > 0; }
  int dims(int operand) const { return static_cast<int>(shape(operand).size()); }
  Rule take() { return std::move(rule_); }
  Rule& rule() { return rule_; }

 private:
  void add(TensorFactors& tensor, int dim, int factor);
  const Call& call_;
  Rule rule_;
};

// The factors of two lists of sizes with the same product: of each dimension, which. Dimensions that do not fit
// together have a factor of their own, which is not divided.
void reshape(RuleBuilder& builder, int operand, int result);

}  // namespace merak::sharding
