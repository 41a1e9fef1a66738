// A group's sending side: which messages may leave now, and which are held until their receiver grants them.

#include "transport/group.h"

namespace merak {
namespace {

// What a message costs of the eager window; its header counts, so that empty messages are bounded too.
std::size_t cost(const Messages& messages) { return messages.bytes + messages.steps.size() * kHeaderBytes; }

}  // namespace

void Group::prepare_to_send(ActiveOperation& operation, int to, const Messages& messages) {
  ask_for_link(to);
  Peer& peer = peers_[to];
  check_reachable(peer, to);
  peer.outgoing[operation.id] = {
      .operation = &operation, .messages = &messages, .held = {}, .left = messages.steps.size()};
  if (auto early = peer.early_grants.find(operation.id); early != peer.early_grants.end()) {
    const Frame frame = early->second;
    peer.early_grants.erase(early);
    on_grant(to, frame);
  }
}

void Group::send_step(ActiveOperation& operation, std::uint32_t step) {
  const int to = operation.program().step(step).peer;
  Peer& peer = peers_[to];
  Outgoing& outgoing = peer.outgoing.at(operation.id);
  if (permitted(peer, outgoing, operation.program().message(step))) return queue_message(peer, outgoing, step);
  outgoing.held.push_back(step);
  if (outgoing.announced) return;
  outgoing.announced = true;
  peer.channel.queue_control({.kind = FrameKind::kAnnounce,
                              .id = operation.id,
                              .signature = operation.request.signature,
                              .message_bytes = outgoing.messages->bytes});
}

bool Group::permitted(Peer& peer, Outgoing& outgoing, std::uint32_t message) {
  if (outgoing.eager || message < outgoing.granted) return true;
  const std::size_t bytes = cost(*outgoing.messages);
  const bool fits = peer.eager_on_the_way + bytes <= kEagerWindow;
  // All messages of an operation to one peer go eagerly, or none: the receiver credits those that did.
  if (outgoing.granted > 0 || !is_small(*outgoing.messages) || !fits) return false;
  peer.eager_on_the_way += bytes;
  return outgoing.eager = true;
}

void Group::queue_message(Peer& peer, const Outgoing& outgoing, std::uint32_t index) {
  ActiveOperation& operation = *outgoing.operation;
  const Step& step = operation.program().step(index);
  peer.channel.queue({-operation.request.priority, operation.started, index},
                     {.frame = {.kind = FrameKind::kData,
                                .eager = outgoing.eager,
                                .id = operation.id,
                                .signature = operation.request.signature,
                                .message = operation.program().message(index),
                                .message_bytes = step.bytes},
                      .buffer = &operation.buffers[step.at.buffer],
                      .start = step.at.offset,
                      .operation = &operation});
}

void Group::release_held(Peer& peer, Outgoing& outgoing) {
  std::vector<std::uint32_t> held;
  held.swap(outgoing.held);
  for (std::uint32_t step : held) {
    if (permitted(peer, outgoing, outgoing.operation->program().message(step)))
      queue_message(peer, outgoing, step);
    else
      outgoing.held.push_back(step);
  }
}

void Group::on_grant(int from, const Frame& frame) {
  Peer& peer = peers_[from];
  if (auto it = peer.outgoing.find(frame.id); it != peer.outgoing.end()) {
    Outgoing& outgoing = it->second;
    check_agreement(from, frame, *outgoing.operation);
    if (frame.message > outgoing.messages->steps.size() || frame.message_bytes != outgoing.messages->bytes)
      disagree(from, frame, "which sends it " + std::to_string(outgoing.messages->bytes) + " bytes");
    outgoing.granted = std::max(outgoing.granted, frame.message);
    return release_held(peer, outgoing);
  }
  const bool past =
      frame.id.point_to_point ? frame.id.sequence < peer.next_send[frame.id.tag] : has_begun(frame.id.sequence);
  if (!past) {
    check_not_too_far(peer.early_grants.size());
    peer.early_grants[frame.id] = frame;
  } else if (frame.message_bytes > kEagerBytes) {  // small messages may have left before their grant came
    check_not_past(from, frame);
  }
}

void Group::on_credit(int from, const Frame& frame) {
  Peer& peer = peers_[from];
  if (frame.message_bytes > peer.eager_on_the_way)
    throw MismatchError("a frame arrived that credits more than was sent");
  peer.eager_on_the_way -= frame.message_bytes;
  for (auto& [id, outgoing] : peer.outgoing)
    if (!outgoing.held.empty()) release_held(peer, outgoing);
}

}  // namespace merak
