#pragma once
// Completes a sharding: a few annotations become a layout of every value, along the factors of the operations' rules.
//
// At each operation the dimensions that share a factor want the same axes. Where one tensor has them and another may,
// it gets them; where tensors disagree, the largest is followed, and the others are resharded later (assign.h). This
// goes on, forward and backward, until nothing changes.
//
// Order decides, so it is that of Shardy: first by the annotations' priority, all of one before the next is looked at;
// within it by how safe a step is: elementwise operations and reshapes; then factors that pass from operands to
// results; then all factors; and only then from what is broadcast to what it is broadcast to. Within one of these, all
// proposals are collected before any is taken, the one from the largest tensor first, names breaking ties: so the order
// in which the operations are listed decides nothing.
//
// Axes are only ever added, so it ends.

#include <string>
#include <vector>

#include "sharding/program.h"

namespace merak::sharding {

struct Completed {
  std::vector<Layout> layouts;  // by value
  std::vector<Layout> wanted;   // the same, without what only says how a value is kept
  // By value and dimension: the annotation that it comes from, and the operation by which it came; -1 for none.
  std::vector<std::vector<int>> annotations, operations;
  // Annotations that were not followed, since an earlier one had settled it otherwise.
  std::vector<int> not_followed;
};

// Throws std::invalid_argument as check_program() and check_annotations() do.
Completed propagate(const Program& program, const std::vector<Annotation>& annotations);

}  // namespace merak::sharding
