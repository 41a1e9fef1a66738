#pragma once
// What the ranks of a group tell each other through the store, beside their addresses: which host each is on, and
// whether all have come.

#include <memory>
#include <string>

#include "backend/membership.h"
#include "backend/store_client.h"
#include "collectives/topology.h"

namespace merak {

// Keys are relative to the group's prefix, which torch has put before the store.
class Meeting {
 public:
  Meeting(std::shared_ptr<StoreClient> store, std::shared_ptr<Membership> membership);

  // Tells the others this rank's host. Does not wait. The value is the same however often it is told.
  void publish_host();

  // Waits for everyone's host. Throws NetworkError naming the ranks that have not come within `timeout`.
  Topology topology(Clock::duration timeout);

  // Waits until all ranks have called it. Rank 0 says who did not come within `timeout`: the first rank missing, or
  // with `all_missing` every one; the other ranks hear of its verdict. Throws TimeoutError. The group goes on
  // working either way.
  void monitored_barrier(Clock::duration timeout, bool all_missing);

 private:
  std::string barrier_key(const std::string& name) const;
  void judge(Clock::duration timeout, bool all_missing);
  void await_verdict(Clock::duration timeout);
  std::string rank_text() const;

  const std::shared_ptr<StoreClient> store_;
  const std::shared_ptr<Membership> membership_;
  std::uint64_t barriers_ = 0;
};

}  // namespace merak
