#pragma once
// Where the ranks of a group find each other's addresses: in c10d's store, or in memory in tests.

#include <optional>
#include <string>

namespace merak {

class Rendezvous {
 public:
  virtual ~Rendezvous() = default;

  // Makes this rank's address known to the others; called once, on the thread that starts the transport.
  virtual void publish(const std::string& address) = 0;

  // The address of a peer, or nothing as long as it has published none. Called on one thread at a time. What it throws
  // fails the connection to that peer.
  virtual std::optional<std::string> lookup(int peer) = 0;
};

}  // namespace merak
