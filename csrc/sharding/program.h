#pragma once
// A program whose tensors are to be divided over a mesh: values, and the operations between them, in order.

#include <string>
#include <vector>

#include "sharding/mesh.h"
#include "sharding/rule.h"

namespace merak::sharding {

// How a tensor lies on the mesh: by dimension.
using Layout = std::vector<Pieces>;

struct Value {
  std::string name;
  Shape shape;
  double bytes = 0;
  bool has_gradient = false;
  bool is_parameter = false;
  // What the batch alone determines: every rank has it whole, and takes of it what it needs.
  bool is_free = false;
  bool is_whole = false;  // it is never divided, nor does anything follow from it
};

struct Operation {
  std::string name;
  std::vector<int> operands, results;  // values, in the order of its rule
  Rule rule;
};

struct Program {
  Mesh mesh;
  std::vector<Value> values;
  std::vector<Operation> operations;
};

// A wish for one dimension of a value.
struct Annotation {
  int value = 0, dim = 0;
  Axes axes = {};          // none: it stays whole
  bool closed = false;     // no more axes may be added
  int priority = 0;        // the lower, the earlier
  bool spreads = true;     // otherwise it says how the value is kept, and nothing follows from it
  std::string label = {};  // who wished it
};

// Throws std::invalid_argument, naming what is wrong: a value, dimension or axis that there is not, an axis that is
// used twice, rules that do not fit their operations.
void check_program(const Program& program);
void check_annotations(const Program& program, const std::vector<Annotation>& annotations);

// Every dimension whole.
Layout undivided(const Shape& shape);

// What split() takes for a dimension with these factors.
std::vector<Part> parts_of(const Rule& rule, const DimFactors& factors);

}  // namespace merak::sharding
