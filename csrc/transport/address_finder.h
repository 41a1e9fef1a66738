#pragma once
// Looks up the addresses of peers, again and again until they are published, on a thread of its own that lives while
// one is wanted: a rendezvous may take seconds to answer (it may be waiting for a name server), and connections that
// are being made to other peers must not wait with it.

#include <functional>
#include <string>

#include "transport/fork.h"
#include "transport/rendezvous.h"

namespace merak {

// Thread-safe.
class AddressFinder {
 public:
  // Called on the finding thread, once per peer: with its address, or with why it cannot be found (then that is empty).
  using OnFound = std::function<void(int peer, const std::string& address, const std::string& error)>;

  AddressFinder(Rendezvous& rendezvous, OnFound on_found);
  ~AddressFinder();  // no call of on_found is under way or follows

  void find(int peer);
  void forget(int peer);  // a call may already be on its way

 private:
  struct State;
  ProcessPtr<State> state_;
};

}  // namespace merak
