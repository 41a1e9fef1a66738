// How a group fails, and what is said about it: on this rank to whoever waits, and to the peers.

#include <algorithm>
#include <optional>
#include <utility>

#include "transport/group.h"

namespace merak {
namespace {

std::string rank_name(int rank) { return "rank " + std::to_string(rank); }

std::string id_name(const OperationId& id) {
  return id.point_to_point ? "message #" + std::to_string(id.sequence) + " of tag " + std::to_string(id.tag)
                           : "collective #" + std::to_string(id.sequence);
}

}  // namespace

// Disagreement --------------------------------------------------------------------------------------------------------

void Group::disagree(int peer, const Frame& frame, const std::string& here) const {
  throw MismatchError(rank_name(peer) + " and " + rank_name(identity_.rank) + " disagree about " + id_name(frame.id) +
                      " of group '" + identity_.name + "': " + rank_name(peer) + " runs " +
                      merak::describe(frame.signature) + ", " + rank_name(identity_.rank) + " " + here +
                      ". All ranks must start the same operations in the same order, with the same sizes and dtypes");
}

void Group::check_agreement(int peer, const Frame& frame, const ActiveOperation& operation) const {
  if (frame.signature == operation.request.signature) return;
  disagree(peer, frame, "runs " + merak::describe(operation.request.signature));
}

// For a frame that no operation here awaits: it must belong to one that has not started yet.
void Group::check_not_past(int peer, const Frame& frame) const {
  if (frame.id.point_to_point) {
    const auto& counters = peers_[peer].next_receive;
    const auto next = counters.find(frame.id.tag);
    if (next != counters.end() && frame.id.sequence < next->second && frame.kind != FrameKind::kGrant)
      disagree(peer, frame, "has received it already");
    return;
  }
  const std::uint64_t sequence = frame.id.sequence;
  if (!has_begun(sequence)) return;
  if (refused_.contains(sequence)) disagree(peer, frame, "refused its arguments, with an error of its own");
  const auto active = collectives_.find(sequence);
  if (active == collectives_.end())
    disagree(peer, frame, "has completed " + what_completed(sequence) + ", and expected nothing of the kind");
  disagree(peer, frame, "runs " + merak::describe(active->second->request.signature));
}

// What came before its collective started here must be something that the collective expects.
void Group::check_early(const ActiveOperation& operation) const {
  if (operation.id.point_to_point) return;
  for (int rank = 0; rank < identity_.size; ++rank) {
    const Peer& peer = peers_[rank];
    const auto early = peer.early.find(operation.id);
    if (early == peer.early.end()) continue;
    check_agreement(rank, early->second.first, operation);
    const auto incoming = peer.incoming.find(operation.id);
    const std::size_t expected = incoming == peer.incoming.end() ? 0 : incoming->second.arrived.size();
    const auto& messages = early->second.messages;
    if (expected == 0 || (!messages.empty() && messages.rbegin()->first >= expected))
      disagree(rank, early->second.first, "expects " + std::to_string(expected) + " messages of it");
  }
}

void Group::check_not_refused(const ActiveOperation& operation) const {
  if (operation.id.point_to_point) return;
  const auto refusal = refused_by_peer_.find(operation.id.sequence);
  if (refusal == refused_by_peer_.end()) return;
  throw MismatchError(rank_name(refusal->second) + " refused the arguments of its " + id_name(operation.id) +
                      ", with an error that says why, where " + rank_name(identity_.rank) + " runs " +
                      merak::describe(operation.request.signature));
}

void Group::on_refusal(int from, const Frame& frame) {
  const std::uint64_t sequence = frame.id.sequence;
  if (refused_.contains(sequence)) return;
  if (!has_begun(sequence)) check_not_too_far(refused_by_peer_.size());
  refused_by_peer_[sequence] = from;
  const auto active = collectives_.find(sequence);
  if (active != collectives_.end()) check_not_refused(*active->second);
  if (active == collectives_.end() && has_begun(sequence))
    throw MismatchError(rank_name(from) + " refused the arguments of its " + id_name(frame.id) +
                        ", with an error that says why, where " + rank_name(identity_.rank) + " has completed " +
                        what_completed(sequence));
}

void Group::check_not_too_far(std::size_t operations) const {
  if (operations >= kMostAhead)
    throw MismatchError("a peer has started " + std::to_string(operations) + " operations that " +
                        rank_name(identity_.rank) + " has not: do all ranks run the same program?");
}

// Peers that go -------------------------------------------------------------------------------------------------------

void Group::check_reachable(const Peer& peer, int rank) const {
  if (peer.left)
    throw NetworkError(rank_name(rank) +
                       " has left the group: it called destroy_process_group or its program has ended. If it "
                       "should not have, look for the first error in its output");
  if (!peer.unreachable.empty()) throw NetworkError(rank_name(rank) + " cannot be reached: " + peer.unreachable);
}

// Operations here need something more of the peer.
bool Group::owes(const Peer& peer) const {
  if (!peer.outgoing.empty()) return true;
  for (const auto& [id, incoming] : peer.incoming) {
    const auto early = peer.early.find(id);
    const std::size_t here = early == peer.early.end() ? 0 : early->second.messages.size();
    if (incoming.left > here) return true;
  }
  return false;
}

void Group::on_goodbye(int from) {
  peers_[from].left = true;
  log_event(LogLevel::kInfo, rank_name(from) + " has left the group");
  if (owes(peers_[from])) check_reachable(peers_[from], from);
}

void Group::link_failed(int peer, const std::string& why) {
  peers_[peer].unreachable = why;
  log_event(LogLevel::kInfo, why);
  guard(-1, [&] {
    if (owes(peers_[peer])) check_reachable(peers_[peer], peer);
  });
}

// Failure -------------------------------------------------------------------------------------------------------------

void Group::guard(int peer, const std::function<void()>& action) {
  try {
    action();
  } catch (const LinkClosed& closed) {
    if (peers_[peer].left && !owes(peers_[peer])) {
      peers_[peer].channel.drop();
      return;
    }
    fail(Failure::kNetwork,
         rank_name(identity_.rank) + " lost its connection to " + rank_name(peer) + " (" + closed.what() +
             "): the process of " + rank_name(peer) +
             " has ended, was killed, or its host cannot be reached. Look for the first error in its "
             "output, and in its host's log");
  } catch (const TimeoutError& error) {
    fail(Failure::kTimeout, error.what());
  } catch (const NetworkError& error) {
    fail(Failure::kNetwork, error.what());
  } catch (const std::exception& error) {
    fail(Failure::kMismatch, error.what());
  }
}

void Group::fail(Failure kind, const std::string& reason) {
  if (failure_) return;
  const std::string words = reason.substr(0, kLongestReason);
  Frame last = {.kind = FrameKind::kAbort, .message = static_cast<std::uint32_t>(kind)};
  last.payload = static_cast<std::uint32_t>(words.size());
  end(kind, words, last, words);
}

void Group::leave() {
  if (failure_) return;
  end(Failure::kNetwork, "the group was destroyed on this rank (destroy_process_group); make a new one to go on",
      {.kind = FrameKind::kGoodbye}, "");
}

void Group::end(Failure kind, const std::string& reason, const Frame& last, const std::string& last_words) {
  failure_kind_ = kind, failure_reason_ = reason;
  log_event(LogLevel::kInfo, "the group has ended: " + reason);
  failure_ = as_exception("group '" + identity_.name + "', " + who() + ": " + reason + in_job());
  last_frame_ = last, last_words_ = last_words;
  say_farewell();
  local_.clear(), any_source_.clear();
  while (!active_.empty()) {
    ActiveOperation& operation = *active_.begin()->first;
    finish(operation, error_of(operation));
  }
}

// Gives up all links, each with our last word. A channel's memory is the operations': they end after it.
void Group::say_farewell() {
  for (Peer& peer : peers_) {
    peer.incoming.clear(), peer.outgoing.clear(), peer.early.clear(), peer.early_grants.clear();
    if (!peer.channel.link()) continue;
    std::string bytes;
    auto link = peer.channel.release(last_frame_, last_words_, bytes);
    farewell_(std::move(link), std::move(bytes));
  }
}

Clock::time_point Group::next_deadline() const {
  return deadlines_.empty() ? Clock::time_point::max() : deadlines_.begin()->first;
}

void Group::expire(Clock::time_point now) {
  if (next_deadline() > now) return;
  const ActiveOperation& late = *deadlines_.begin()->second;
  const double seconds = std::chrono::duration<double>(late.request.timeout).count();
  fail(Failure::kTimeout, describe(late) + " did not complete within its timeout of " + std::to_string(seconds) +
                              " s on " + rank_name(identity_.rank) + waits_for(late));
}

// Words ---------------------------------------------------------------------------------------------------------------

std::exception_ptr Group::as_exception(const std::string& text) const {
  switch (failure_kind_) {
    case Failure::kTimeout:
      return std::make_exception_ptr(TimeoutError(text));
    case Failure::kMismatch:
      return std::make_exception_ptr(MismatchError(text));
    case Failure::kNetwork:
      break;
  }
  return std::make_exception_ptr(NetworkError(text));
}

std::exception_ptr Group::error_of(const ActiveOperation& operation) const {
  return as_exception(describe(operation) + " failed in group '" + identity_.name + "', " + who() + ": " +
                      failure_reason_ + in_job());
}

std::string Group::describe(const ActiveOperation& operation) const {
  return merak::describe(operation.request.signature) + " (" + id_name(operation.id) + ")";
}

void Group::log_event(LogLevel level, const std::string& text) const {
  log(level, {.rank = identity_.rank, .size = identity_.size, .group = identity_.name, .sequence = {}}, text);
}

std::string Group::who() const { return rank_name(identity_.rank) + " of " + std::to_string(identity_.size); }

// What the ranks that errors name are in the whole job, where they are others there.
std::string Group::in_job() const {
  constexpr std::size_t kMost = 16;
  const auto& ranks = identity_.global_ranks;
  bool same = true;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) same = same && ranks[rank] == rank;
  if (same) return "";
  std::string listed;
  for (std::size_t rank = 0; rank < std::min(ranks.size(), kMost); ++rank)
    listed += (rank > 0 ? ", " : "") + std::to_string(rank) + " is " + std::to_string(ranks[rank]);
  return ". (Ranks are those of this group; in the job " + listed + (ranks.size() > kMost ? ", ..." : "") + ")";
}

// A collective that is no longer in flight here, as far as it is remembered.
std::string Group::what_completed(std::uint64_t sequence) const {
  const auto& [latest, signature] = completed_[sequence % completed_.size()];
  return latest == sequence ? merak::describe(signature) : "it";
}

// Which message has not come from a peer, or may not be sent to it yet: the first one, where the operation can tell.
std::string Group::first_late(const ActiveOperation& operation, const Peer& peer) const {
  if (!operation.request.carries) return "";
  std::optional<std::uint32_t> step;
  if (const auto in = peer.incoming.find(operation.id); in != peer.incoming.end()) {
    const std::vector<bool>& complete = in->second.complete;
    const auto first = std::find(complete.begin(), complete.end(), false) - complete.begin();
    if (static_cast<std::size_t>(first) < complete.size()) step = in->second.messages->steps[first];
  } else if (const auto out = peer.outgoing.find(operation.id); out != peer.outgoing.end()) {
    const std::vector<std::uint32_t>& held = out->second.held;
    if (!held.empty()) step = *std::min_element(held.begin(), held.end());
  }
  return step ? " (" + operation.request.carries(*step) + ")" : "";
}

std::string Group::waits_for(const ActiveOperation& operation) const {
  std::string text;
  for (int rank = 0; rank < identity_.size; ++rank) {
    const Peer& peer = peers_[rank];
    std::string what;
    if (peer.incoming.contains(operation.id))
      what = "data from ";
    else if (peer.outgoing.contains(operation.id))
      what = "sending to ";
    if (what.empty()) continue;
    text += (text.empty() ? ": it waits for " : ", ") + what + rank_name(rank) + first_late(operation, peer);
    if (!peer.channel.link()) text += " (never connected: has it started this group?)";
  }
  return (text.empty() ? ": no other rank has sent anything" : text) +
         ". Look at what those ranks are doing; if they only need longer, pass a longer timeout to init_process_group";
}

}  // namespace merak
