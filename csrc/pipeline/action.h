#pragma once
// One act of one rank in a pipelined training step.
//
// A model is cut into *stages*; a batch into *micro-batches*. Every stage runs forward (F) and backward (B) once for
// each micro-batch. The backward may be split into what the stage before needs, the gradients of the inputs (I), and
// the gradients of the weights (W), for which nobody waits. A stage that kept only its inputs runs its forward again
// before the backward: recompute (R).
//
// A value crosses an *edge* from the stage that produces it to the stage that consumes it, and its gradient comes back
// along the same edge. Where the two stages live on different ranks, that takes three acts: the sender sends; the
// receiver posts a buffer (RECV), and later waits for what arrives there (WAIT), so that other acts fit in between.
//
//     SEND_F   at the producer, to the consumer          SEND_B   at the consumer, back to the producer
//     RECV_F   at the consumer, from the producer        RECV_B   at the producer, from the consumer
//     WAIT_F   at the consumer, for that receive         WAIT_B   at the producer, for that receive
//
// REDUCE_GRAD sums the gradients of a stage's weights over the replicas of the model; it has no micro-batch.
//
// As text, an action is what torch.distributed.pipelining writes: stage, kind, micro-batch, such as 2F0 or 1SEND_F3.
// The stage at the other end is the neighbour, unless it is named: 0SEND_F3>2 goes from stage 0 past stage 1 to 2.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace merak::pipeline {

enum class ActionKind : std::uint8_t {
  kForward,
  kBackward,
  kBackwardInput,
  kBackwardWeight,
  kRecompute,
  kSendForward,
  kReceiveForward,
  kWaitForward,
  kSendBackward,
  kReceiveBackward,
  kWaitBackward,
  kReduceGrad,
};
inline constexpr int kActionKinds = 12;

// "F", "SEND_F" and so on.
const char* name(ActionKind kind);

struct Action {
  ActionKind kind = ActionKind::kForward;
  int stage = 0;
  int microbatch = -1;         // -1: of none
  int peer = -1;               // the stage at the other end; -1 for an action that does not communicate
  bool overlaps_next = false;  // may run together with the next action of its rank, as DualPipeV pairs F and B

  bool operator==(const Action&) const = default;
};

// F, B, I, W and R: those that keep the rank's device busy.
inline bool is_compute(ActionKind kind) { return kind <= ActionKind::kRecompute; }
inline bool is_communication(ActionKind kind) { return !is_compute(kind) && kind != ActionKind::kReduceGrad; }
inline bool is_send(ActionKind kind) { return kind == ActionKind::kSendForward || kind == ActionKind::kSendBackward; }
inline bool is_receive(ActionKind kind) {
  return kind == ActionKind::kReceiveForward || kind == ActionKind::kReceiveBackward;
}
inline bool is_wait(ActionKind kind) { return kind == ActionKind::kWaitForward || kind == ActionKind::kWaitBackward; }
// B and I: what the stage before waits for.
inline bool gives_input_gradient(ActionKind kind) {
  return kind == ActionKind::kBackward || kind == ActionKind::kBackwardInput;
}
// B and W: after which the weights have their gradient of that micro-batch.
inline bool gives_weight_gradient(ActionKind kind) {
  return kind == ActionKind::kBackward || kind == ActionKind::kBackwardWeight;
}

// What a communicating action moves.
struct Message {
  bool forward = true;  // a value; otherwise the gradient of one
  int producer = 0, consumer = 0, microbatch = 0;

  int sender() const { return forward ? producer : consumer; }    // a stage
  int receiver() const { return forward ? consumer : producer; }  // a stage

  bool operator==(const Message&) const = default;
};
Message message_of(const Action& action);
Action action_of(ActionKind kind, const Message& message);

std::string text(const Action& action);

// Nothing where the text is no action. `overlaps_next` is no part of it: see csv.h.
std::optional<Action> parse_action(std::string_view text);

}  // namespace merak::pipeline
