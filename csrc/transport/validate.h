#pragma once
// Checks the programs of all ranks of one operation against each other, before any byte moves:
//
// - every `after` names an earlier step;
// - the n-th send from one rank to another has an n-th receive there, of as many bytes;
// - every place lies within its buffer, and nothing is written to the input;
// - no two steps that may run at the same time touch the same memory, unless both only read it;
// - the programs end, whatever the order of events, with receives granted as the engine grants them: to each peer in
//   order of index, each when the steps that it comes after are done.
//
// What happens before what is a graph of *events*: every step starts and is done, and every receive is granted.
// A step's start comes after what its `after` names is done; a send's start, after the grant of its receive; a
// receive's start (from where its memory may change), after its send's start; its end, after its send's end. A circle
// in the graph is a deadlock. The grants are left out of account when it comes to memory, since the engine spares them
// for small messages.

#include <cstddef>
#include <vector>

#include "transport/program.h"

namespace merak {

struct BufferSizes {  // bytes of one rank's buffers
  std::size_t input = 0, output = 0;
};

// Throws std::logic_error, which names rank and step, at the first fault. For tests and tools: takes time in
// proportion to the square of the number of steps.
void validate(const std::vector<Program>& programs, const std::vector<BufferSizes>& buffers);

}  // namespace merak
