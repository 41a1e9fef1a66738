#include "transport/prepared_program.h"

#include <utility>

namespace merak {

PreparedProgram::PreparedProgram(Program program)
    : program_(std::move(program)), successors_(program_.steps.size()), message_(program_.steps.size(), 0) {
  for (std::uint32_t index = 0; index < program_.steps.size(); ++index) {
    const Step& step = program_.steps[index];
    for (std::uint32_t before : step.after) successors_[before].push_back(index);
    if (step.kind != StepKind::kSend && step.kind != StepKind::kReceive) continue;
    Messages& messages = (step.kind == StepKind::kSend ? sends_ : receives_)[step.peer];
    message_[index] = static_cast<std::uint32_t>(messages.steps.size());
    messages.steps.push_back(index);
    messages.bytes += step.bytes;
  }
}

}  // namespace merak
