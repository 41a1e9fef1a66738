#pragma once
// Waiting that Ctrl-C ends, and that lets other Python threads run.

#include <functional>

#include "transport/operation.h"

namespace merak {

// Gives up Python's lock, if this thread holds it, for as long as this object lives.
class WithoutGil {
 public:
  WithoutGil();
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;

 private:
  void* state_ = nullptr;
};

// On the main thread: handles signals that have come. What their handlers raise comes out as python_error.
void handle_signals();

// Calls done_by(t) with ever later times t until it returns true or `until` has passed; returns whether it did. On the
// main thread signals are handled in between: what their handlers raise (KeyboardInterrupt) comes out as python_error.
bool wait_interruptibly(const std::function<bool(Clock::time_point)>& done_by, Clock::time_point until);

// Waits until the operation is done, and throws its error.
void wait_interruptibly(Operation& operation);

}  // namespace merak
