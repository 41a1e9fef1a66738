#include "pipeline/action.h"

#include <array>
#include <charconv>

namespace merak::pipeline {
namespace {

constexpr std::array<const char*, kActionKinds> kNames = {
    "F", "B", "I", "W", "R", "SEND_F", "RECV_F", "WAIT_F", "SEND_B", "RECV_B", "WAIT_B", "REDUCE_GRAD"};

bool is_forward_message(ActionKind kind) {
  return kind == ActionKind::kSendForward || kind == ActionKind::kReceiveForward || kind == ActionKind::kWaitForward;
}

// The peer that need not be named.
int neighbour(ActionKind kind, int stage) {
  const bool to_next = is_forward_message(kind) == is_send(kind);
  return to_next ? stage + 1 : stage - 1;
}

constexpr int kLargest = 1 << 30;  // so that one more is an int too

// Takes a number up to that from the front of `text`.
std::optional<int> take_number(std::string_view& text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0 || number > kLargest || text.front() == '-') return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

std::optional<ActionKind> take_kind(std::string_view& text) {
  const std::size_t length = std::min(text.find_first_of("0123456789>"), text.size());
  for (int kind = 0; kind < kActionKinds; ++kind)
    if (text.substr(0, length) == kNames[static_cast<std::size_t>(kind)]) {
      text.remove_prefix(length);
      return static_cast<ActionKind>(kind);
    }
  return std::nullopt;
}

}  // namespace

const char* name(ActionKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

Message message_of(const Action& action) {
  const bool forward = is_forward_message(action.kind), at_producer = forward == is_send(action.kind);
  return {forward, at_producer ? action.stage : action.peer, at_producer ? action.peer : action.stage,
          action.microbatch};
}

Action action_of(ActionKind kind, const Message& message) {
  const bool sends = is_send(kind);
  return {.kind = kind,
          .stage = sends ? message.sender() : message.receiver(),
          .microbatch = message.microbatch,
          .peer = sends ? message.receiver() : message.sender()};
}

std::string text(const Action& action) {
  std::string written = std::to_string(action.stage) + name(action.kind);
  if (action.microbatch >= 0) written += std::to_string(action.microbatch);
  if (is_communication(action.kind) && action.peer != neighbour(action.kind, action.stage))
    written += ">" + std::to_string(action.peer);
  return written;
}

std::optional<Action> parse_action(std::string_view text) {
  Action action;
  const std::optional<int> stage = take_number(text);
  if (!stage) return std::nullopt;
  const std::optional<ActionKind> kind = take_kind(text);
  if (!kind) return std::nullopt;
  action.stage = *stage, action.kind = *kind;
  if (*kind != ActionKind::kReduceGrad) {
    const std::optional<int> microbatch = take_number(text);
    if (!microbatch) return std::nullopt;
    action.microbatch = *microbatch;
  }
  if (is_communication(*kind)) {
    std::optional<int> peer = neighbour(*kind, *stage);
    if (text.starts_with('>')) text.remove_prefix(1), peer = take_number(text);
    if (!peer) return std::nullopt;
    action.peer = *peer;
  }
  return text.empty() ? std::optional(action) : std::nullopt;
}

}  // namespace merak::pipeline
