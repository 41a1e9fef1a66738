#pragma once
// A program with what the engine looks up while it runs: who waits for each step, and the messages of each peer.
// Immutable, so that one is shared by all operations of the same shape.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "transport/program.h"

namespace merak {

struct Messages {                    // between this rank and one peer, in one direction
  std::vector<std::uint32_t> steps;  // message m is carried by step steps[m]
  std::size_t bytes = 0;             // of all of them
};

class PreparedProgram {
 public:
  // Needs a program that validate() accepts.
  explicit PreparedProgram(Program program);

  const Program& program() const { return program_; }
  const Step& step(std::uint32_t index) const { return program_.steps[index]; }
  std::size_t size() const { return program_.steps.size(); }

  // The steps that come after step `index`.
  const std::vector<std::uint32_t>& successors(std::uint32_t index) const { return successors_[index]; }
  // The number of a send or receive step among the messages to or from its peer.
  std::uint32_t message(std::uint32_t index) const { return message_[index]; }

  const std::map<int, Messages>& sends() const { return sends_; }        // by peer
  const std::map<int, Messages>& receives() const { return receives_; }  // by peer

 private:
  Program program_;
  std::vector<std::vector<std::uint32_t>> successors_;
  std::vector<std::uint32_t> message_;
  std::map<int, Messages> sends_, receives_;
};

}  // namespace merak
