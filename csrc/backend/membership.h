#pragma once
// One rank's membership in one group, as the backend holds it: opened when it is first needed, closed once, however
// often and from wherever that is asked.

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "transport/engine.h"
#include "transport/fork.h"

namespace merak {

// Thread-safe. In a forked child it is inert: operations are refused, and closing does nothing, for the connections
// and the engine's thread are the parent's.
class Membership : public std::enable_shared_from_this<Membership> {
 public:
  // Makes the transport, within `timeout`; while it waits it calls check(), which throws when the group is ended.
  using MakeTransport =
      std::function<std::unique_ptr<Transport>(Clock::duration timeout, const std::function<void()>& check)>;

  // Of a group of one rank no transport is ever made.
  static std::shared_ptr<Membership> create(GroupIdentity identity, MakeTransport make_transport);
  ~Membership();  // closes, and lingers a little
  Membership(const Membership&) = delete;

  const GroupIdentity& identity() const { return identity_; }

  // Opens the group at the first call, within `timeout`; calls after close() and abort() throw NetworkError, those in a
  // forked child too.
  std::shared_ptr<Group> group(Clock::duration timeout);

  bool forked() const;  // in a forked child
  // Throws NetworkError in a forked child.
  void check_same_process() const;
  // Throws what group() would, and opens nothing.
  void check_usable() const;

  // Fails what is in flight on all ranks, with that reason.
  void abort(const std::string& reason);

  // Leaves the group; gives what was sent at most `linger` to reach the peers.
  void close(Clock::duration linger);

  // Why the group does not work any more; null while it does, and while it is being opened.
  std::exception_ptr failure() const;

  // Closes every membership of the process, for its exit; all together take at most `linger`.
  static void close_all(Clock::duration linger);

 private:
  Membership(GroupIdentity identity, MakeTransport make_transport);

  std::shared_ptr<Group> opened() const;  // null while it is not; throws when it has ended
  std::shared_ptr<Group> open(Clock::duration timeout);

  const GroupIdentity identity_;
  const std::uint64_t generation_ = fork_generation();
  MakeTransport make_transport_;
  std::mutex opening_;  // held by who opens the group, who may be waiting for a peer or for the store
  mutable std::mutex mutex_;
  std::shared_ptr<Group> group_;
  std::string ended_;  // why it can be used no more; empty while it can
};

}  // namespace merak
