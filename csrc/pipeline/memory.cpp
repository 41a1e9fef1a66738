#include "pipeline/memory.h"

#include <algorithm>

#include "pipeline/message_index.h"

namespace merak::pipeline {
namespace {

// What is alive now, and the most so far.
struct Account {
  Peak now, most;

  void take(int Peak::*count, double bytes) {
    ++(now.*count), now.bytes += bytes;
    most.*count = std::max(most.*count, now.*count);
    most.bytes = std::max(most.bytes, now.bytes);
  }
  void give(int Peak::*count, double bytes) { --(now.*count), now.bytes -= bytes; }
};

class Counting {
 public:
  Counting(const Schedule& schedule, const std::vector<StageBytes>& stages, const std::vector<double>& message_bytes)
      : schedule_(schedule),
        bytes_(stages),
        message_bytes_(message_bytes),
        edges_(schedule),
        index_(schedule),
        checkpointed_(checkpointed(schedule)),
        posted_(index_.count(), false),
        ranks_(schedule.ranks.size()),
        stages_(stages.size()) {
    for (std::size_t stage = 0; stage < stages.size(); ++stage)
      for (Account* account : {&ranks_[schedule.rank_of_stage[stage]], &stages_[stage]})
        account->now.bytes += stages[stage].fixed, account->most.bytes = account->now.bytes;
  }

  PeakMemory run() {
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank)
      for (const Action& action : schedule_.ranks[rank]) {
        begin(action, ranks_[rank]);
        end(action, ranks_[rank]);
      }
    PeakMemory peaks;
    for (const Account& account : ranks_) peaks.ranks.push_back(account.most);
    for (const Account& account : stages_) peaks.stages.push_back(account.most);
    return peaks;
  }

 private:
  double message_bytes(std::size_t message) const { return message_bytes_[message / (2 * schedule_.microbatches)]; }

  void begin(const Action& action, Account& rank) {
    if (is_receive(action.kind)) {
      const std::size_t message = index_(message_of(action));
      posted_[message] = true;
      return rank.take(&Peak::receives, message_bytes(message));
    }
    const bool forward = action.kind == ActionKind::kForward, again = action.kind == ActionKind::kRecompute;
    if (!forward && !again) return;
    const StageBytes& bytes = bytes_[action.stage];
    const bool keeps_inputs =
        checkpointed_[static_cast<std::size_t>(action.stage) * schedule_.microbatches + action.microbatch];
    for (Account* account : {&rank, &stages_[action.stage]}) {
      if (again) account->give(&Peak::checkpoints, bytes.checkpoint);
      if (forward && keeps_inputs)
        account->take(&Peak::checkpoints, bytes.checkpoint);
      else
        account->take(&Peak::activations, bytes.activation);
    }
  }

  void end(const Action& action, Account& rank) {
    for (const Message& needed : needs(action, edges_))
      if (const std::size_t message = index_(needed); posted_[message])
        rank.give(&Peak::receives, message_bytes(message));
    if (!gives_weight_gradient(action.kind)) return;
    for (Account* account : {&rank, &stages_[action.stage]})
      account->give(&Peak::activations, bytes_[action.stage].activation);
  }

  const Schedule& schedule_;
  const std::vector<StageBytes>& bytes_;
  const std::vector<double>& message_bytes_;
  const EdgesByStage edges_;
  const MessageIndex index_;
  const std::vector<bool> checkpointed_;
  std::vector<bool> posted_;
  std::vector<Account> ranks_, stages_;
};

}  // namespace

PeakMemory peak_memory(const Schedule& schedule, const std::vector<StageBytes>& stages,
                       const std::vector<double>& message_bytes) {
  return Counting(schedule, stages, message_bytes).run();
}

std::vector<int> in_flight(const Schedule& schedule) {
  const std::vector<double> message_bytes(schedule.edges.size());
  const PeakMemory peaks = peak_memory(schedule, std::vector<StageBytes>(schedule.rank_of_stage.size()), message_bytes);
  std::vector<int> found;
  for (const Peak& peak : peaks.stages) found.push_back(peak.activations);
  return found;
}

}  // namespace merak::pipeline
