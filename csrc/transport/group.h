#pragma once
// One rank's membership in a group: its peers, the operations in flight, and the matching of frames to operations.
//
// Flow control. A message may be sent when its receiver has *granted* it, which it does as soon as the receiving
// operation has started and the message's memory is free; so a peer's data never waits unread in front of another
// operation's, in whatever order ranks start their operations. Small operations do not wait for a round trip: when all
// messages of an operation to one peer come to no more than kEagerBytes, they are sent *eagerly*, at most
// kEagerWindow bytes ahead of what the receiver has taken up, and are kept aside there when they are early. A receiver
// that keeps much aside grants its small operations too, so that a sender whose window is full goes on.
//
// Everything here runs under the engine's lock.

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "transport/active_operation.h"
#include "transport/channel.h"
#include "transport/engine.h"
#include "transport/errors.h"
#include "transport/log.h"

namespace merak {

inline constexpr std::size_t kEagerBytes = 64 * 1024;
inline constexpr std::size_t kEagerWindow = 1024 * 1024;
inline constexpr std::size_t kMostAhead = 1024 * 1024;  // operations that a peer may have started and this rank not

enum class Failure : std::uint32_t { kNetwork = 0, kTimeout, kMismatch };

// Whether the messages of one operation to one peer are sent eagerly; both ends must find the same.
inline bool is_small(const Messages& messages) {
  return messages.bytes <= kEagerBytes && messages.steps.size() * kHeaderBytes <= kEagerBytes;
}

class Group final : public ChannelOwner, public std::enable_shared_from_this<Group> {
 public:
  // A link that is given up, with the last bytes to write to it.
  using Farewell = std::function<void(std::unique_ptr<Link>, std::string last_bytes)>;

  Group(GroupIdentity identity, std::unique_ptr<Transport> transport, Farewell farewell);
  ~Group() override;

  const GroupIdentity& identity() const { return identity_; }
  Transport& transport() { return *transport_; }

  std::shared_ptr<Operation> start_collective(std::shared_ptr<ActiveOperation> operation);
  void refuse_collective(OperationKind kind);
  // Goes on with an operation that has asked for its next act, unless it has failed meanwhile.
  void start_next_act(ActiveOperation& operation, Act act);
  std::shared_ptr<Operation> start_send(std::shared_ptr<ActiveOperation> operation, int peer, std::uint32_t tag);
  std::shared_ptr<Operation> start_receive(std::shared_ptr<ActiveOperation> operation, int peer, std::uint32_t tag);

  void link_up(int peer, std::unique_ptr<Link> link);
  void link_failed(int peer, const std::string& why);

  // Moves what can be moved within a budget; returns whether anything moved. Never throws: failures fail the group.
  bool progress();
  // There is more to do that waits for nothing.
  bool busy() const;
  // The peer's link may have become readable, writable; the peer has finished writing.
  void wake(int peer, bool readable, bool writable, bool ending) {
    peers_[peer].channel.wake(readable, writable, ending);
  }

  Clock::time_point next_deadline() const;
  void expire(Clock::time_point now);

  void fail(Failure kind, const std::string& reason);
  void leave();  // destroys the membership, gracefully
  std::exception_ptr failure() const { return failure_; }

  // Whether that collective, or that act of one, has begun here; it may have ended.
  bool has_begun(std::uint64_t sequence) const {
    return sequence < collectives_started() && !reserved_.contains(sequence);
  }
  std::uint64_t collectives_started() const { return next_collective_.load(std::memory_order_relaxed); }
  Traffic traffic() const;

  // ChannelOwner
  Runs place(int peer, const Frame& frame) override;
  void arrived(int peer, const Frame& frame, const std::string& reason) override;
  void sent(int peer, ActiveOperation* operation, std::uint32_t step) override;

 private:
  // What one operation still expects of one peer.
  struct Incoming {
    ActiveOperation* operation = nullptr;
    const Messages* messages = nullptr;
    std::vector<std::uint64_t> arrived;  // bytes, by message
    std::vector<bool> open;              // by message: its memory is free
    std::vector<bool> complete;          // by message
    std::uint32_t granted = 0;           // how many messages the peer was told that it may send
    std::size_t left = 0;                // messages
  };
  // What one operation still has to send to one peer.
  struct Outgoing {
    ActiveOperation* operation = nullptr;
    const Messages* messages = nullptr;
    std::uint32_t granted = 0;  // how many messages may be sent
    bool eager = false;         // these are sent ahead of any grant
    bool announced = false;
    std::vector<std::uint32_t> held;  // steps that are ready, but not permitted yet
    std::size_t left = 0;             // messages
  };
  // A small message that came before its operation started here, or before its memory was free.
  struct EarlyMessage {
    std::vector<std::byte> bytes;
    bool complete = false;
  };
  struct Early {
    Frame first;  // says what the peer runs
    std::map<std::uint32_t, EarlyMessage> messages;
  };
  struct Peer {
    Peer(int rank, ChannelOwner& owner) : channel(rank, owner) {}
    Channel channel;
    bool asked = false;       // for a link
    bool left = false;        // said goodbye
    std::string unreachable;  // why there is no link
    std::map<OperationId, Incoming> incoming;
    std::map<OperationId, Outgoing> outgoing;
    std::map<OperationId, Early> early;
    std::map<OperationId, Frame> early_grants;
    std::map<std::uint32_t, std::uint64_t> next_send, next_receive;  // by tag
    std::size_t eager_on_the_way = 0;                                // bytes sent eagerly that were not credited yet
    std::size_t early_bytes = 0;  // bytes kept aside for operations that have not started
    std::size_t uncredited = 0;   // eager bytes taken up since the last credit
  };
  struct AnySource {
    ActiveOperation* operation;
    std::uint32_t tag;
  };

  // Life of an operation: group.cpp.
  std::shared_ptr<Operation> enter(const std::shared_ptr<ActiveOperation>& operation);
  void launch(ActiveOperation& operation);
  void ask_for_link(int peer);
  void watch_neighbours();
  void start_step(ActiveOperation& operation, std::uint32_t step);
  void finish_step(ActiveOperation& operation, std::uint32_t step);
  void finish_act(ActiveOperation& operation);
  void finish(ActiveOperation& operation, std::exception_ptr error);
  void complete(const ActiveOperation& operation);
  bool compute(std::size_t budget);

  // Sending: group_sending.cpp.
  void prepare_to_send(ActiveOperation& operation, int to, const Messages& messages);
  void send_step(ActiveOperation& operation, std::uint32_t step);
  bool permitted(Peer& peer, Outgoing& outgoing, std::uint32_t message);
  void queue_message(Peer& peer, const Outgoing& outgoing, std::uint32_t step);
  void release_held(Peer& peer, Outgoing& outgoing);
  void on_grant(int from, const Frame& frame);
  void on_credit(int from, const Frame& frame);

  // Receiving: group_receiving.cpp.
  void expect(ActiveOperation& operation, int from, const Messages& messages);
  void open_message(ActiveOperation& operation, std::uint32_t step);
  void grant(Peer& peer, Incoming& incoming);
  void take_early(Peer& peer, Incoming& incoming, std::uint32_t message);
  Runs place_early(int from, const Frame& frame);
  void data_arrived(int from, const Frame& frame);
  void message_complete(Peer& peer, Incoming& incoming, std::uint32_t message);
  void on_announce(int from, const Frame& frame);
  void took_up(Peer& peer, std::size_t bytes);
  Incoming* find_incoming(int from, const Frame& frame);
  bool bind_to_early(ActiveOperation& operation, std::uint32_t tag);
  void bind(ActiveOperation& operation, int from, std::uint32_t tag);

  // What goes wrong: group_failure.cpp.
  void guard(int peer, const std::function<void()>& action);
  void check_agreement(int peer, const Frame& frame, const ActiveOperation& operation) const;
  void check_not_past(int peer, const Frame& frame) const;
  void check_early(const ActiveOperation& operation) const;
  void check_not_refused(const ActiveOperation& operation) const;
  void on_refusal(int from, const Frame& frame);
  void check_not_too_far(std::size_t operations) const;
  [[noreturn]] void disagree(int peer, const Frame& frame, const std::string& here) const;
  void on_goodbye(int from);
  void end(Failure kind, const std::string& reason, const Frame& last, const std::string& last_words);
  void check_reachable(const Peer& peer, int rank) const;
  bool owes(const Peer& peer) const;
  void say_farewell();
  std::exception_ptr as_exception(const std::string& text) const;
  std::exception_ptr error_of(const ActiveOperation& operation) const;
  std::string describe(const ActiveOperation& operation) const;
  std::string waits_for(const ActiveOperation& operation) const;
  std::string first_late(const ActiveOperation& operation, const Peer& peer) const;
  std::string what_completed(std::uint64_t sequence) const;
  std::string who() const;
  std::string in_job() const;
  void log_event(LogLevel level, const std::string& text) const;

  const GroupIdentity identity_;
  std::unique_ptr<Transport> transport_;
  Farewell farewell_;
  std::deque<Peer> peers_;  // by rank
  std::map<ActiveOperation*, std::shared_ptr<ActiveOperation>> active_;
  std::set<std::pair<Clock::time_point, ActiveOperation*>> deadlines_;
  std::deque<std::pair<ActiveOperation*, std::uint32_t>> local_;  // reduces and copies that are ready
  std::deque<AnySource> any_source_;
  std::map<std::uint64_t, ActiveOperation*> collectives_;          // in flight, by sequence
  std::array<std::pair<std::uint64_t, Signature>, 64> completed_;  // the latest, for errors, by sequence % 64
  std::set<std::uint64_t> refused_;                                // here, by sequence
  std::map<std::uint64_t, int> refused_by_peer_;  // by sequence: one of those who refused it; not yet ours
  std::set<std::uint64_t> reserved_;              // sequences of acts that have not begun
  std::atomic<std::uint64_t> next_collective_{0};
  std::atomic<std::uint64_t> bytes_sent_{0}, bytes_received_{0}, operations_{0};
  std::exception_ptr failure_;
  Failure failure_kind_ = Failure::kNetwork;
  std::string failure_reason_;
  Frame last_frame_;  // what peers are told at the end
  std::string last_words_;
};

}  // namespace merak
