#pragma once
// One rank's end of an NCCL communicator of its own, whose calls never block for good: each has a deadline.
//
// A call of NCCL may have to meet a peer that has died; a blocking one would then never return, and nobody could abort
// it. So the communicator is made non-blocking: calls return at once, and this class asks until they have taken effect.
// Only then may more work go onto the stream: before, the group's own kernel may not stand there yet.

#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "transport/nccl_api.h"

namespace merak {

// Made by one rank, carried to the others (by the store), and used by all of them for one communicator. Throws
// NetworkError.
NcclUniqueId new_nccl_id(const NcclApi& api);

// One thread issues; any thread may call check() and abort(). Errors are those of errors.h; after one, as after
// abort(), the communicator serves no more.
class NcclCommunicator {
 public:
  using Duration = std::chrono::steady_clock::duration;

  // Returns when all ranks of the group have called it; on each, the GPU to be used is the current one. `api` outlives
  // the communicator. `check` is called now and then by whoever waits here for a peer; what it throws ends the wait,
  // and the communicator.
  NcclCommunicator(const NcclApi& api, const NcclUniqueId& id, int rank, int size, Duration timeout,
                   std::function<void()> check = {});

  // Ends in peace when nothing has failed and the peers do so too within a few seconds, else by abort().
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;

  // A group: sends and receives that are carried out together, in any order but for those between the same two ranks
  // in the same direction. Between the two calls nothing throws; what failed shows in group_end.
  void group_start();
  void send(const void* from, std::size_t bytes, int peer, CudaStreamHandle stream);
  void receive(void* to, std::size_t bytes, int peer, CudaStreamHandle stream);
  void group_end(Duration timeout);

  // Throws NetworkError when what runs on the device has failed, or has been aborted.
  void check();

  // What is under way ends, on the device too; a thread that waits in here throws NetworkError.
  void abort();

 private:
  using Deadline = std::chrono::steady_clock::time_point;

  void note(int result);
  void wait(const std::string& what, Deadline deadline);
  void call_check();
  bool require_health(const std::string& what);
  std::optional<int> state();
  [[noreturn]] void time_out(const std::string& what);
  [[noreturn]] void fail(const std::string& what, int result);
  bool finalize();

  const NcclApi& api_;
  const std::function<void()> while_waiting_;
  const std::string who_;                  // "rank 1 of 4"
  std::mutex mutex_;                       // no call under it waits for a peer
  NcclCommunicatorHandle comm_ = nullptr;  // null: aborted
  int first_failure_ = kNcclSuccess;       // in the group that is open
};

}  // namespace merak
