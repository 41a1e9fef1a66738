#pragma once
// A transport whose links suffer faults: a decorator of any other one.

#include <memory>

#include "transport/faults.h"
#include "transport/link.h"

namespace merak {

// The faults of one group whose ranks live in this process. Thread-safe. What it wrapped may outlive it.
class FaultInjector {
 public:
  explicit FaultInjector(Faults faults);

  std::unique_ptr<Transport> wrap(int rank, std::unique_ptr<Transport> transport);

  // All links of that rank die at once, those to come as soon as they are made. What peers have not read yet of what it
  // wrote can still be read.
  void kill(int rank);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace merak
