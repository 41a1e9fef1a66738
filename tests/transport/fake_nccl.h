#pragma once
// An NCCL in memory, for tests: one communicator among ranks that are threads of this process, behind the same table of
// functions. It matches as NCCL does (no tags, by order of issue for each two ranks and direction), a group ends only
// when all its messages have met their other ends, and a receive may write to its memory from the moment it is issued.

#include <cstddef>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "transport/nccl_api.h"

namespace merak {

class FakeNccl {
 public:
  static constexpr int kRemoteError = 6, kInvalidUsage = 5, kInvalidArgument = 4;

  explicit FakeNccl(int size) : ranks_(size) {
    for (int rank = 0; rank < size; ++rank) ranks_[rank].world = this, ranks_[rank].number = rank;
  }
  FakeNccl(const FakeNccl&) = delete;

  NcclUniqueId id() {
    NcclUniqueId id{};
    FakeNccl* self = this;
    std::memcpy(id.bytes, &self, sizeof(self));
    return id;
  }

  // The calls of that rank give this result from now on.
  void break_sends(int rank, int result) { ranks_[rank].send_result = result; }
  // As when the device finds that a peer is gone.
  void break_device(int rank, int result) {
    std::lock_guard lock(mutex_);
    ranks_[rank].state = result;
  }

  int destroyed() { return count(&Rank::destroyed); }
  int aborted() { return count(&Rank::aborted); }

  static NcclApi api() {
    NcclApi api;
    api.version = 22703;
    api.get_version = [](int* version) { return *version = 22703, kNcclSuccess; };
    api.get_error_string = [](int result) { return result == kRemoteError ? "remote error" : "invalid usage"; };
    api.get_unique_id = [](NcclUniqueId*) { return kInvalidUsage; };
    api.comm_init_rank_config = join;
    api.comm_get_async_error = [](NcclCommunicatorHandle comm, int* result) {
      *result = rank_of(comm).world->state_of(rank_of(comm));
      return kNcclSuccess;
    };
    api.comm_finalize = [](NcclCommunicatorHandle comm) { return rank_of(comm).world->set(rank_of(comm).finalized); };
    api.comm_destroy = [](NcclCommunicatorHandle comm) { return rank_of(comm).world->set(rank_of(comm).destroyed); };
    api.comm_abort = [](NcclCommunicatorHandle comm) { return rank_of(comm).world->set(rank_of(comm).aborted); };
    api.send = [](const void* from, std::size_t bytes, int, int peer, NcclCommunicatorHandle comm, CudaStreamHandle) {
      return rank_of(comm).add({true, peer, static_cast<std::byte*>(const_cast<void*>(from)), bytes});
    };
    api.receive = [](void* to, std::size_t bytes, int, int peer, NcclCommunicatorHandle comm, CudaStreamHandle) {
      return rank_of(comm).add({false, peer, static_cast<std::byte*>(to), bytes});
    };
    api.group_start = [] { return open_groups()++, kNcclSuccess; };
    api.group_end = close_group;
    return api;
  }

 private:
  struct Rank;
  struct Message {
    bool sends;
    int peer;
    std::byte* data;
    std::size_t bytes;
    Rank* rank = nullptr;
  };

  struct Rank {
    FakeNccl* world = nullptr;
    int number = 0;
    bool joined = false, finalized = false, destroyed = false, aborted = false;
    int under_way = 0;  // messages
    int state = kNcclSuccess, send_result = kNcclSuccess;

    int add(Message message) {
      if (open_groups() == 0) return kInvalidUsage;
      if (message.sends && send_result != kNcclSuccess) return send_result;
      message.rank = this;
      group().push_back(message);
      return kNcclSuccess;
    }
  };
  struct Meeting {  // of the messages from one rank to another
    std::deque<Message> sends, receives;
  };

  static Rank& rank_of(NcclCommunicatorHandle comm) { return *static_cast<Rank*>(comm); }

  // NCCL too counts groups by thread.
  static int& open_groups() {
    static thread_local int open = 0;
    return open;
  }
  static std::vector<Message>& group() {
    static thread_local std::vector<Message> messages;
    return messages;
  }

  static int join(NcclCommunicatorHandle* comm, int size, NcclUniqueId id, int rank, NcclConfig*) {
    FakeNccl* world = nullptr;
    std::memcpy(&world, id.bytes, sizeof(world));
    if (size != static_cast<int>(world->ranks_.size())) return kInvalidArgument;
    *comm = &world->ranks_[rank];
    world->set(world->ranks_[rank].joined);
    return kNcclInProgress;
  }

  static int close_group() {
    if (--open_groups() < 0) return kInvalidUsage;
    std::vector<Message> messages;
    messages.swap(group());
    if (messages.empty()) return kNcclSuccess;
    messages.front().rank->world->post(messages);
    return kNcclInProgress;
  }

  int set(bool& flag) {
    std::lock_guard lock(mutex_);
    flag = true;
    return kNcclSuccess;
  }

  int count(bool Rank::*flag) {
    std::lock_guard lock(mutex_);
    int total = 0;
    for (const Rank& rank : ranks_) total += rank.*flag;
    return total;
  }

  int state_of(const Rank& rank) {
    std::lock_guard lock(mutex_);
    if (rank.state != kNcclSuccess) return rank.state;
    bool waits = rank.under_way > 0;
    for (const Rank& other : ranks_) waits = waits || !other.joined || (rank.finalized && !other.finalized);
    return waits ? kNcclInProgress : kNcclSuccess;
  }

  void post(const std::vector<Message>& messages) {
    std::lock_guard lock(mutex_);
    for (const Message& message : messages)
      if (!message.sends && message.bytes > 0) std::memset(message.data, 0xa5, message.bytes);
    for (const Message& message : messages) {
      ++message.rank->under_way;
      const std::pair route(message.sends ? message.rank->number : message.peer,
                            message.sends ? message.peer : message.rank->number);
      Meeting& meeting = meetings_[route];
      (message.sends ? meeting.sends : meeting.receives).push_back(message);
      if (!meeting.sends.empty() && !meeting.receives.empty()) meet(meeting);
    }
  }

  void meet(Meeting& meeting) {
    const Message send = meeting.sends.front(), receive = meeting.receives.front();
    meeting.sends.pop_front(), meeting.receives.pop_front();
    if (send.bytes != receive.bytes)
      send.rank->state = receive.rank->state = kInvalidArgument;
    else if (send.bytes > 0)
      std::memcpy(receive.data, send.data, send.bytes);
    --send.rank->under_way, --receive.rank->under_way;
  }

  std::mutex mutex_;
  std::vector<Rank> ranks_;
  std::map<std::pair<int, int>, Meeting> meetings_;  // by sender and receiver
};

}  // namespace merak
