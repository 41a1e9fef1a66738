#pragma once
// The progress engine: one thread that carries out all operations of all groups of a process.
//
// An operation is started from any thread and carried out here. The engine never waits for one operation while it
// could go on with another: it sends what is ready and permitted, receives whatever arrives straight into the memory
// of the operation it belongs to, and does reduces and copies in between.
//
// Failure is the group's: an operation that times out, a peer that dies, ranks that disagree, or abort() fail every
// operation of the group in flight and all that follow, on this rank, and tell the peers, so that all ranks raise.

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "transport/link.h"
#include "transport/operation.h"

namespace merak {

class Group;  // one rank's membership in a group; opaque here

struct GroupIdentity {
  std::string name;  // for people: in logs and errors
  int rank = 0;
  int size = 1;
  std::vector<std::uint64_t> global_ranks;  // what its ranks are in the whole job; empty if they are the same
};

struct Traffic {
  std::uint64_t bytes_sent = 0, bytes_received = 0;  // on links, frame headers included
  std::uint64_t operations = 0;
};

inline constexpr int kAnySource = -1;

// Thread-safe.
class Engine {
 public:
  enum class Drive {
    kThread,  // a thread of its own makes progress
    kManual,  // run_once does, for tests of many ranks in one thread
  };

  explicit Engine(Drive drive = Drive::kThread);
  // Aborts what is in flight; runs the callbacks that are due.
  ~Engine();
  Engine(const Engine&) = delete;

  // The engine of this process, started at first use and never destroyed (a forked child gets a fresh one).
  static Engine& process();

  std::shared_ptr<Group> open(GroupIdentity identity, std::unique_ptr<Transport> transport);

  // Starts the next collective of the group: the n-th one that a rank starts belongs to the n-th of all others.
  // request.program says what this rank does; its buffers must fit it. Never throws for a failed group: the operation
  // is then done at once, with the error.
  std::shared_ptr<Operation> start(Group& group, Request request);

  // Takes no part in the group's next collective, for whose arguments this rank raises an error: it counts as started
  // here. Ranks that do take part in it raise too, all of them.
  void refuse(Group& group, OperationKind kind);

  // Sends request.input to `peer`, or receives request.output from it (or from kAnySource). Messages between two ranks
  // with the same tag match in order. request.program is not used.
  std::shared_ptr<Operation> send(Group& group, int peer, std::uint32_t tag, Request request);
  std::shared_ptr<Operation> receive(Group& group, int peer, std::uint32_t tag, Request request);

  // Fails the group on this rank, with that reason, and tells the peers. Idempotent.
  void abort(Group& group, const std::string& reason);

  // Ends this rank's membership: operations in flight fail, peers are told that this rank has left (which harms only
  // those that still need it). Blocks until what was sent before has reached the peers, `linger` at most. Idempotent.
  void close(Group& group, Clock::duration linger);

  // How many collectives this rank has started.
  std::uint64_t sequence(const Group& group) const;
  Traffic traffic(const Group& group) const;
  Traffic traffic() const;  // of all groups of this engine, past ones too
  // Null while the group works.
  std::exception_ptr failure(const Group& group) const;

  CallbackThreads& callbacks();

  // kManual: makes what progress is possible; waits for something to happen for at most `wait`. Returns whether
  // anything happened.
  bool run_once(Clock::duration wait);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace merak
