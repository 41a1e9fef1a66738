#include "backend/membership.h"

#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "transport/errors.h"

namespace merak {
namespace {

constexpr auto kDestructorLinger = std::chrono::seconds(1);

// The transport of a group of one rank.
class NoPeers final : public Transport {
 public:
  void start(OnLink) override {}
  void connect(int) override {}
  void close() override {}
};

struct Registry {
  std::mutex mutex;
  std::vector<std::weak_ptr<Membership>> members;

  static Registry& get() {
    static PerProcess<Registry> registry;
    return registry.get();
  }

  void add(const std::shared_ptr<Membership>& member) {
    std::lock_guard lock(mutex);
    std::erase_if(members, [](const auto& old) { return old.expired(); });
    members.push_back(member);
  }
};

}  // namespace

Membership::Membership(GroupIdentity identity, MakeTransport make_transport)
    : identity_(std::move(identity)), make_transport_(std::move(make_transport)) {}

std::shared_ptr<Membership> Membership::create(GroupIdentity identity, MakeTransport make_transport) {
  std::shared_ptr<Membership> member(new Membership(std::move(identity), std::move(make_transport)));
  Registry::get().add(member);
  return member;
}

Membership::~Membership() {
  if (forked()) {
    new std::shared_ptr<Group>(std::move(group_));  // kept for good: its end would touch the parent's connections
    return;
  }
  close(kDestructorLinger);
}

bool Membership::forked() const { return fork_generation() != generation_; }

void Membership::check_same_process() const {
  if (!forked()) return;
  throw NetworkError("group '" + identity_.name + "' belongs to the process that this one (" +
                     std::to_string(getpid()) +
                     ") was forked from. Use the group there only, or create one of the child's own in the child.");
}

void Membership::check_usable() const { opened(); }

std::shared_ptr<Group> Membership::opened() const {
  check_same_process();  // before the mutex, which may have been held when the process forked
  std::lock_guard lock(mutex_);
  if (!ended_.empty()) throw NetworkError(ended_);
  return group_;
}

std::shared_ptr<Group> Membership::group(Clock::duration timeout) {
  if (auto group = opened()) return group;
  std::lock_guard lock(opening_);
  auto group = opened();
  return group ? group : open(timeout);
}

std::shared_ptr<Group> Membership::open(Clock::duration timeout) {
  auto transport = identity_.size == 1 ? std::unique_ptr<Transport>(new NoPeers)
                                       : make_transport_(timeout, [this] { check_usable(); });
  auto group = Engine::process().open(identity_, std::move(transport));
  {
    std::lock_guard lock(mutex_);
    if (ended_.empty()) return group_ = group;
  }
  Engine::process().close(*group, Clock::duration::zero());
  throw NetworkError(ended_);
}

void Membership::abort(const std::string& reason) {
  if (forked()) return;
  std::shared_ptr<Group> group;
  {
    std::lock_guard lock(mutex_);
    if (ended_.empty()) ended_ = "group '" + identity_.name + "' was aborted: " + reason;
    group = group_;
  }
  if (group) Engine::process().abort(*group, reason);
}

void Membership::close(Clock::duration linger) {
  if (forked()) return;
  std::shared_ptr<Group> group;
  {
    std::lock_guard lock(mutex_);
    if (ended_.empty()) {
      ended_ = "group '" + identity_.name + "' was destroyed on rank " + std::to_string(identity_.rank) +
               " (destroy_process_group, or the program's end). Create a new group to go on.";
    }
    group = std::exchange(group_, nullptr);
  }
  if (group) Engine::process().close(*group, linger);
}

std::exception_ptr Membership::failure() const {
  if (forked()) return nullptr;
  std::lock_guard lock(mutex_);
  return group_ ? Engine::process().failure(*group_) : nullptr;
}

void Membership::close_all(Clock::duration linger) {
  std::vector<std::weak_ptr<Membership>> members;
  {
    std::lock_guard lock(Registry::get().mutex);
    members = Registry::get().members;
  }
  const auto until = Clock::now() + linger;
  for (const auto& entry : members) {
    if (auto member = entry.lock()) member->close(std::max(until - Clock::now(), Clock::duration::zero()));
  }
  // They may hold tensors, which cannot be released once Python has begun to end.
  Engine::process().callbacks().wait_until_idle(until);
}

}  // namespace merak
