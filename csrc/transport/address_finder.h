#pragma once
// Looks up the addresses of peers, again and again until they are published, on a thread of its own that lives while
// one is wanted: a rendezvous may take seconds to answer (it may be waiting for a name server), and connections that
// are being made to other peers must not wait with it.

#include <functional>
#include <memory>
#include <string>

#include "transport/rendezvous.h"

namespace merak {

// Thread-safe. In a forked child it must not be destroyed.
class AddressFinder {
 public:
  // Called on the finding thread, once per peer: with its address, or with why it cannot be found (then that is empty).
  using OnFound = std::function<void(int peer, const std::string& address, const std::string& error)>;

  AddressFinder(std::shared_ptr<Rendezvous> rendezvous, OnFound on_found);
  // No call of on_found is under way or follows. A rendezvous that does not answer (its host is frozen) is given a
  // second, then its thread is left to wait for it alone.
  ~AddressFinder();

  void find(int peer);
  void forget(int peer);  // a call may already be on its way

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace merak
