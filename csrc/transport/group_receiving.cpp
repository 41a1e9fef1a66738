// A group's receiving side: where arriving data goes, what is kept aside, and what is granted.

#include <cstring>

#include "transport/group.h"

namespace merak {

// An operation starts -------------------------------------------------------------------------------------------------

void Group::expect(ActiveOperation& operation, int from, const Messages& messages) {
  ask_for_link(from);
  Peer& peer = peers_[from];
  const std::size_t count = messages.steps.size();
  auto early = peer.early.find(operation.id);
  if (early != peer.early.end()) check_agreement(from, early->second.first, operation);
  if (early == peer.early.end() || early->second.messages.size() < count) check_reachable(peer, from);
  peer.incoming[operation.id] = {.operation = &operation,
                                 .messages = &messages,
                                 .arrived = std::vector<std::uint64_t>(count, 0),
                                 .open = std::vector<bool>(count, false),
                                 .complete = std::vector<bool>(count, false),
                                 .left = count};
  if (early != peer.early.end() && early->second.messages.empty()) peer.early.erase(early);
}

void Group::open_message(ActiveOperation& operation, std::uint32_t step) {
  Peer& peer = peers_[operation.program().step(step).peer];
  const std::uint32_t message = operation.program().message(step);
  Incoming& incoming = peer.incoming.at(operation.id);
  incoming.open[message] = true;
  take_early(peer, incoming, message);
}

// Small operations are sent without a grant, unless their sender has run far ahead.
void Group::grant(Peer& peer, Incoming& incoming) {
  const bool ahead = peer.early_bytes >= kEagerWindow / 2 || incoming.granted > 0;
  if (is_small(*incoming.messages) && !ahead) return;
  std::uint32_t open = incoming.granted;
  while (open < incoming.open.size() && incoming.open[open]) ++open;
  if (open == incoming.granted) return;
  incoming.granted = open;
  peer.channel.queue_control({.kind = FrameKind::kGrant,
                              .id = incoming.operation->id,
                              .signature = incoming.operation->request.signature,
                              .message = open,
                              .message_bytes = incoming.messages->bytes});
}

// Data arrives --------------------------------------------------------------------------------------------------------

Group::Incoming* Group::find_incoming(int from, const Frame& frame) {
  Peer& peer = peers_[from];
  if (auto it = peer.incoming.find(frame.id); it != peer.incoming.end()) return &it->second;
  if (!frame.id.point_to_point || frame.id.sequence != peer.next_receive[frame.id.tag]) return nullptr;
  for (auto it = any_source_.begin(); it != any_source_.end(); ++it) {
    if (it->tag != frame.id.tag) continue;
    ActiveOperation& operation = *it->operation;
    any_source_.erase(it);
    bind(operation, from, frame.id.tag);
    return &peer.incoming.at(frame.id);
  }
  return nullptr;
}

Runs Group::place(int from, const Frame& frame) {
  Incoming* incoming = find_incoming(from, frame);
  if (!incoming) {
    check_not_past(from, frame);
    return place_early(from, frame);
  }
  const ActiveOperation& operation = *incoming->operation;
  check_agreement(from, frame, operation);
  const std::uint32_t message = frame.message;
  if (message >= incoming->arrived.size() || incoming->complete[message])
    disagree(from, frame, "which expects " + std::to_string(incoming->arrived.size()) + " messages of it");
  const Step& step = operation.program().step(incoming->messages->steps[message]);
  if (frame.message_bytes != step.bytes)
    disagree(from, frame,
             "which expects " + std::to_string(step.bytes) + " bytes here, not " + std::to_string(frame.message_bytes));
  if (!incoming->open[message]) return place_early(from, frame);
  if (frame.offset != incoming->arrived[message]) throw MismatchError("a frame arrived out of order");
  return Runs(operation.buffers[step.at.buffer], step.at.offset + frame.offset, frame.payload);
}

Runs Group::place_early(int from, const Frame& frame) {
  Peer& peer = peers_[from];
  const bool whole = frame.offset == 0 && frame.payload == frame.message_bytes;
  const std::size_t bytes = frame.payload + kHeaderBytes;
  if (!frame.eager || !whole || frame.payload > kEagerBytes || peer.early_bytes + bytes > kEagerWindow)
    throw MismatchError("a frame of " + merak::describe(frame.signature) + " arrived that nothing here had granted");
  check_not_too_far(peer.early.size());
  Early& early = peer.early.try_emplace(frame.id, Early{.first = frame, .messages = {}}).first->second;
  auto [it, fresh] = early.messages.try_emplace(frame.message);
  if (!fresh) throw MismatchError("a frame arrived twice");
  peer.early_bytes += bytes;
  it->second.bytes.resize(frame.payload);
  if (peer.early_bytes >= kEagerWindow / 2)
    for (auto& [id, incoming] : peer.incoming) grant(peer, incoming);
  Runs runs;
  runs.append(it->second.bytes.data(), frame.payload);
  return runs;
}

void Group::data_arrived(int from, const Frame& frame) {
  Peer& peer = peers_[from];
  auto incoming = peer.incoming.find(frame.id);
  if (auto early = peer.early.find(frame.id); early != peer.early.end()) {
    auto message = early->second.messages.find(frame.message);
    if (message != early->second.messages.end()) {
      message->second.complete = true;
      if (incoming != peer.incoming.end() && incoming->second.open[frame.message])
        take_early(peer, incoming->second, frame.message);
      return;
    }
  }
  if (frame.eager) took_up(peer, frame.payload + kHeaderBytes);
  Incoming& expected = incoming->second;
  expected.arrived[frame.message] += frame.payload;
  if (expected.arrived[frame.message] == frame.message_bytes) message_complete(peer, expected, frame.message);
}

void Group::take_early(Peer& peer, Incoming& incoming, std::uint32_t message) {
  auto early = peer.early.find(incoming.operation->id);
  if (early == peer.early.end()) return;
  auto it = early->second.messages.find(message);
  if (it == early->second.messages.end() || !it->second.complete) return;
  const std::vector<std::byte> bytes = std::move(it->second.bytes);
  early->second.messages.erase(it);
  if (early->second.messages.empty()) peer.early.erase(early);

  const Step& step = incoming.operation->program().step(incoming.messages->steps[message]);
  if (bytes.size() != step.bytes)
    throw MismatchError("rank " + who() + " expects " + std::to_string(step.bytes) + " bytes in " +
                        merak::describe(incoming.operation->request.signature) + ", but a peer sent " +
                        std::to_string(bytes.size()));
  const std::byte* from = bytes.data();
  incoming.operation->buffers[step.at.buffer].for_each_run(step.at.offset, step.bytes,
                                                           [&](std::byte* to, std::size_t run) {
                                                             std::memcpy(to, from, run);
                                                             from += run;
                                                           });
  peer.early_bytes -= bytes.size() + kHeaderBytes;
  took_up(peer, bytes.size() + kHeaderBytes);
  message_complete(peer, incoming, message);
}

void Group::message_complete(Peer& peer, Incoming& incoming, std::uint32_t message) {
  ActiveOperation& operation = *incoming.operation;
  const std::uint32_t step = incoming.messages->steps[message];
  incoming.complete[message] = true;
  if (--incoming.left == 0) peer.incoming.erase(operation.id);
  finish_step(operation, step);
}

// Tells the sender, now and then, that its eager messages were taken up.
void Group::took_up(Peer& peer, std::size_t bytes) {
  peer.uncredited += bytes;
  if (peer.uncredited < kEagerWindow / 4) return;
  peer.channel.queue_control({.kind = FrameKind::kCredit, .message_bytes = peer.uncredited});
  peer.uncredited = 0;
}

// Announcements -------------------------------------------------------------------------------------------------------

void Group::on_announce(int from, const Frame& frame) {
  if (Incoming* incoming = find_incoming(from, frame)) {
    check_agreement(from, frame, *incoming->operation);
    if (frame.message_bytes != incoming->messages->bytes)
      disagree(from, frame,
               "which expects " + std::to_string(incoming->messages->bytes) + " bytes of it, not " +
                   std::to_string(frame.message_bytes));
    return;
  }
  check_not_past(from, frame);
  check_not_too_far(peers_[from].early.size());
  peers_[from].early.try_emplace(frame.id, Early{.first = frame, .messages = {}});
}

bool Group::bind_to_early(ActiveOperation& operation, std::uint32_t tag) {
  for (int from = 0; from < identity_.size; ++from) {
    Peer& peer = peers_[from];
    if (!peer.early.contains({1, tag, peer.next_receive[tag]})) continue;
    bind(operation, from, tag);
    return true;
  }
  return false;
}

void Group::arrived(int peer, const Frame& frame, const std::string& reason) {
  switch (frame.kind) {
    case FrameKind::kData:
      return data_arrived(peer, frame);
    case FrameKind::kGrant:
      return on_grant(peer, frame);
    case FrameKind::kAnnounce:
      return on_announce(peer, frame);
    case FrameKind::kCredit:
      return on_credit(peer, frame);
    case FrameKind::kGoodbye:
      return on_goodbye(peer);
    case FrameKind::kRefuse:
      return on_refusal(peer, frame);
    case FrameKind::kAbort:
      break;
  }
  if (frame.message == static_cast<std::uint32_t>(Failure::kTimeout)) throw TimeoutError(reason);
  if (frame.message == static_cast<std::uint32_t>(Failure::kMismatch)) throw MismatchError(reason);
  throw NetworkError(reason);
}

}  // namespace merak
