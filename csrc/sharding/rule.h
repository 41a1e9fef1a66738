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
//   replicate  every rank needs the whole of it (what is normalised or sorted along)
//   window     the result's dimension is computed from what lies around in the operand's (what is convolved along,
//              shifted, padded): each of the two has a factor, and a *window* ties them (borders.h)
//   routed     of what experts are made of: the operation sends rows to the ranks that have theirs. The one kind that
//              may lie on axes over which another factor of the same operation is divided: the rows
//
// The idea, and the names of most kinds, are Shardy's (openxla.org/shardy).

#include <map>
#include <set>
#include <string>
#include <vector>

#include "sharding/mesh.h"

namespace merak::sharding {

enum class FactorKind { kPass, kReduce, kPartial, kInside, kReplicate, kWindow, kRouted };

struct Factor {
  std::int64_t size = 1;
  FactorKind kind = FactorKind::kPass;
};

using Shape = std::vector<std::int64_t>;
using DimFactors = std::vector<int>;            // major to minor; none for a size of 1
using TensorFactors = std::vector<DimFactors>;  // by dimension

// How a dimension of the first result is computed from one of an operand: its element i from `extent` elements, from
// i * stride - before on. What is not there is padding, or, if it wraps, comes from the other end.
struct Window {
  std::int64_t stride = 1, before = 0, extent = 1;
  bool wraps = false;
  int operand = 0, dim = 0, result_dim = 0;
  int from = 0, to = 0;  // the factors of the operand's dimension and of the result's
};

struct Rule {
  std::vector<Factor> factors;
  std::vector<TensorFactors> operands, results;
  std::vector<Window> windows;
  bool elementwise = false;  // or only a matter of shape: what is propagated first
  int routes = -1;           // the factor (rows) that is divided wherever a routed one is
  int added = -1;            // an operand (a bias) that is added to a sum, once that is complete

  // Whether it has a product's sum, so that most of the work is there.
  bool is_product() const;
  // Of a dimension with these factors.
  std::int64_t size_of(const DimFactors& dim) const;
};

// An operation as it was called. Tensors that were not given have no shape, and no factors.
struct Call {
  std::string name;                      // such as "aten.add"
  std::vector<Shape> operands, results;  // tensors, in the order of the schema, lists flattened
  // Numbers and lists of numbers by name, truth values as 0 and 1; of a word, such as mode="constant", a 1 by the name
  // "mode=constant".
  std::map<std::string, std::vector<std::int64_t>> args;
  std::set<std::int64_t> varying = {};  // numbers that stand for what depends on the batch

  bool has(const std::string& name) const { return args.count(name) > 0; }
  std::int64_t arg(const std::string& name, std::int64_t otherwise) const;
  // Of a list; one of a single number says the same of all.
  std::int64_t item(const std::string& name, int index, std::int64_t otherwise) const;
  // A dimension of a tensor with so many, counted from the front.
  int dim(const std::string& name, int dims, int otherwise) const;
  std::vector<int> dims(const std::string& name, int dims_of_tensor) const;
};

// The rule of an operation; one that is unknown has a rule by which everything is replicated.
Rule rule_of(const Call& call);
bool has_rule(const std::string& name);
std::vector<std::string> names_of_rules();

}  // namespace merak::sharding
