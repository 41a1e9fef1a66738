#pragma once
// What sharding has to know of an operation: its *factors*, as in einsum.
//
// A matrix product (i,k),(k,j)->(i,j) has three; a reshape ((ij),k)->(i,j,k) has three as well, two of which are one
// dimension of its operand. Dimensions that share a factor can be divided alike, with nothing to be communicated, if
// the factor's kind allows it:
//
//   pass       in the result too: each rank computes its part of the result
//   reduce     not in the result, which is then a sum that is missing over the factor's axes
//   partial    an embedding's rows: who has not a row gives zeros, and the sum is missing as well
//   inside     the operation communicates itself (classes of a cross entropy)
//   replicate  every rank needs the whole of it (what is normalised, sorted or convolved along)
//
// The idea, and the names of most kinds, are Shardy's (openxla.org/shardy).

#include <map>
#include <string>
#include <vector>

#include "sharding/mesh.h"

namespace merak::sharding {

enum class FactorKind { kPass, kReduce, kPartial, kInside, kReplicate };

struct Factor {
  std::int64_t size = 1;
  FactorKind kind = FactorKind::kPass;
};

using Shape = std::vector<std::int64_t>;
using DimFactors = std::vector<int>;            // major to minor; none for a size of 1
using TensorFactors = std::vector<DimFactors>;  // by dimension

struct Rule {
  std::vector<Factor> factors;
  std::vector<TensorFactors> operands, results;
  bool elementwise = false;  // or only a matter of shape: what is propagated first
  int added = -1;            // an operand (a bias) that is added to a sum, once that is complete

  // Whether it has a product's sum, so that most of the work is there.
  bool is_product() const;
};

// An operation as it was called. Tensors that were not given have no shape, and no factors.
struct Call {
  std::string name;                                       // such as "aten.add"
  std::vector<Shape> operands, results;                   // tensors, in the order of the schema, lists flattened
  std::map<std::string, std::vector<std::int64_t>> args;  // numbers and lists of numbers by name, truth values as 0, 1

  bool has(const std::string& name) const { return args.count(name) > 0; }
  std::int64_t arg(const std::string& name, std::int64_t otherwise) const;
  // A dimension of a tensor with so many, counted from the front.
  int dim(const std::string& name, int dims, int otherwise) const;
  std::vector<int> dims(const std::string& name, int dims_of_tensor) const;
};

// The rule of an operation; one that is unknown has a rule by which everything is replicated.
Rule rule_of(const Call& call);
bool has_rule(const std::string& name);
std::vector<std::string> names_of_rules();

}  // namespace merak::sharding
