#pragma once
// A program as the simulator needs it: a tenth of the memory, so that those of a thousand ranks fit.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/program.h"

namespace merak {

struct CompactProgram {
  struct Item {
    std::uint64_t bytes;
    std::int32_t peer;
    std::uint32_t waits_for;   // how many steps it comes after
    std::uint32_t successors;  // where its successors begin in the list of all
    std::uint32_t partner;     // of a send: the step that receives it, in the peer's program
    StepKind kind;
    bool granted;  // of a send: may leave as far as the receiver is concerned
  };
  struct Incoming {  // the receives from one peer
    std::int32_t peer;
    std::uint32_t first, count;  // in `receives`
    std::uint32_t granted;       // how many of them
    std::uint64_t bytes;         // of all of them
  };

  explicit CompactProgram(const Program& program);

  Incoming* from(int peer);  // null: nothing comes from there

  std::vector<Item> items;  // and one more, where the last successors end
  std::vector<std::uint32_t> successors;
  std::vector<Incoming> incoming;       // in order of peer
  std::vector<std::uint32_t> receives;  // steps, by peer, then by index
  std::vector<std::uint32_t> sender;    // of receive i in `receives`: the step that sends it, in the peer's program
};

// Finds every send's receive and every receive's send. Throws std::logic_error where there is none.
void match(std::vector<CompactProgram>& programs);

}  // namespace merak
