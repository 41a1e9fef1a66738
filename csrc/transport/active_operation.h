#pragma once
// One operation while the engine carries it out: its memory, and which of its steps are still waiting for what.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "transport/frame.h"
#include "transport/operation.h"

namespace merak {

struct ActiveOperation : std::enable_shared_from_this<ActiveOperation> {
  std::shared_ptr<Operation> handle;
  Request request;
  OperationId id;
  std::uint64_t started = 0;  // operations of all groups count in the order of their start
  Clock::time_point deadline;
  int acts_left = 0;                       // after this one
  std::function<void()> ask_for_next_act;  // the engine's

  std::vector<Buffer> buffers;  // by number: input, output, scratch ...
  std::vector<std::unique_ptr<std::byte[]>> scratch;
  std::vector<std::uint32_t> waiting_for;  // by step: how many steps it still comes after
  std::size_t steps_left = 0;

  const PreparedProgram& program() const { return *request.program; }

  // Allocates the scratch memory and counts what each step waits for. Throws std::invalid_argument when the program
  // does not fit its buffers.
  void prepare();

  // Carries out a reduce, a copy or a sum of rows.
  void compute(const Step& step) const;

 private:
  bool fits(const Step& step) const;
  void sum_rows(const Step& step) const;
  void copy_strided(const Step& step) const;
};

}  // namespace merak
