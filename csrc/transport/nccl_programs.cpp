#include "transport/nccl_programs.h"

namespace merak {
namespace {

constexpr std::size_t kAlignment = 256;  // as memory comes from cudaMalloc

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

class Issuer {
 public:
  Issuer(const Program& program, const DeviceMemory& memory, DeviceCalls& calls)
      : program_(program), calls_(calls), memory_(memory) {
    std::byte* next = memory.scratch;
    for (std::size_t bytes : program.scratch) {
      scratch_.push_back(next);
      next += aligned(bytes);
    }
  }

  void issue(const Round& round) {
    for (std::uint32_t index : round.work) issue_work(program_.steps[index]);
    if (round.messages.empty()) return;
    calls_.group_start();
    for (std::uint32_t index : round.messages) issue_message(program_.steps[index]);
    calls_.group_end();
  }

 private:
  void issue_work(const Step& step) {
    if (step.kind == StepKind::kReduce)
      calls_.reduce(at(step.at), at(step.from), step.bytes, step.completes);
    else if (step.kind == StepKind::kSumRows)
      calls_.sum_rows(at(step.at), at(step.from), program_.row_sums[step.row_sums], step.row_sums, step.completes);
    else if (step.kind == StepKind::kCopyStrided)
      calls_.copy_strided(at(step.at), at(step.from), program_.strided_copies[step.strided_copy]);
    else
      calls_.copy(at(step.at), at(step.from), step.bytes);
  }

  void issue_message(const Step& step) {
    if (step.kind == StepKind::kSend)
      calls_.send(step.peer, at(step.at), step.bytes);
    else
      calls_.receive(step.peer, at(step.at), step.bytes);
  }

  std::byte* at(Place place) const {
    if (place.buffer == kInput) return memory_.input.at(place.offset);
    if (place.buffer == kOutput) return memory_.output.at(place.offset);
    return scratch_.at(static_cast<std::size_t>(place.buffer - kScratch)) + place.offset;
  }

  const Program& program_;
  DeviceCalls& calls_;
  const DeviceMemory& memory_;
  std::vector<std::byte*> scratch_;
};

}  // namespace

std::size_t scratch_bytes(const Program& program) {
  std::size_t total = 0;
  for (std::size_t bytes : program.scratch) total += aligned(bytes);
  return total;
}

void issue(const Program& program, const Rounds& rounds, const DeviceMemory& memory, DeviceCalls& calls) {
  Issuer issuer(program, memory, calls);
  for (const Round& round : rounds) issuer.issue(round);
}

}  // namespace merak
