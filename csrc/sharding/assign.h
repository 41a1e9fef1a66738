#pragma once
// How each operation computes, once every value has a layout: over which axes each of its factors is divided.
//
// Values and operation may disagree: where a layer norm needs a whole dimension, where a product's operands are divided
// along what is summed over. What an operation needs of its operands, and makes of its results, is written down beside
// the layouts of the values; the steps between the two are the communication of the program.
//
// Of the ways in question (each tensor's layout taken as the operation's, completed from the others) the one that moves
// the fewest bytes is chosen, forward and backward; of equal ones, that which divides the work more. For products,
// which are most of the work, it is the other way round: no rank does again what another does.

#include <vector>

#include "sharding/program.h"
#include "sharding/reshard.h"

namespace merak::sharding {

// A window whose dimensions are divided.
struct DividedWindow {
  Window window;
  int axis = 0;
  Borders borders;
};

struct Assigned {
  std::vector<Pieces> factors;                   // by factor of the rule
  std::vector<Layout> operands;                  // as the operation takes them
  std::vector<State> results;                    // as it makes them
  std::vector<std::vector<Step>> before, after;  // of each operand, and of each result
  Axes divided;                                  // all axes over which its ranks do different work
  std::vector<int> inside;                       // factors that it communicates along by itself
  std::vector<DividedWindow> windows;
};

// `layouts` and `wanted` as propagate() has them: operations follow the latter, and take what they need from the
// former.
std::vector<Assigned> assign(const Program& program, const std::vector<Layout>& layouts,
                             const std::vector<Layout>& wanted);

}  // namespace merak::sharding
