#pragma once
// A group whose ranks live in one process, as threads or all driven by one thread: for tests, and for numerics of many
// ranks on one machine.

#include <memory>

#include "transport/in_process_link.h"
#include "transport/link.h"

namespace merak {

// Thread-safe. Its transports may outlive it. on_link is called on the thread that starts, connects or closes, of
// either end, and must not call a transport.
class InProcessFabric {
 public:
  explicit InProcessFabric(int size, std::size_t capacity = kInProcessCapacity);

  // One for each rank. A link is made as soon as one of its ends has asked for it and both have started. When a rank
  // closes its transport, those that ask or have asked for a link to it are told that it has left.
  std::unique_ptr<Transport> transport(int rank);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace merak
