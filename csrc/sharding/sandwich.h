#pragma once
// Finds where Megatron-LM divides layers: pairs of products with parameters between which everything stays divided.
//
// A product's output features are followed through what passes them on: activations, reshapes into heads, attention,
// sums with what is laid out alike. If all ways end in other products with parameters, which sum over them, then the
// first may be divided by columns and the others by rows, and one sum is left to be communicated for the whole
// *sandwich*. What normalises along the features, or needs them whole in another way, ends the search: so the residual
// stream, which is normalised, stays undivided. If the ways end in a cross entropy, the features are the vocabulary.
//
// Nothing here knows a model, or the name of a layer.

#include <vector>

#include "sharding/program.h"

namespace merak::sharding {

struct Sandwich {
  int parameter = 0, dim = 0;  // what to divide
  bool is_vocabulary = false;
};

std::vector<Sandwich> find_sandwiches(const Program& program, int axis);

}  // namespace merak::sharding
