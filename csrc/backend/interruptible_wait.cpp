#include "backend/interruptible_wait.h"

#include <torch/csrc/Exceptions.h>
#include <unistd.h>

#include <algorithm>

namespace merak {
namespace {

constexpr auto kSlice = std::chrono::milliseconds(50);

bool python_runs() {
#if PY_VERSION_HEX >= 0x030d0000
  return Py_IsInitialized() && !Py_IsFinalizing();
#else
  return Py_IsInitialized() && !_Py_IsFinalizing();
#endif
}

}  // namespace

void handle_signals() {
  if (gettid() != getpid() || !python_runs()) return;
  pybind11::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() == 0) return;
  python_error error;
  error.persist();
  throw error;
}

WithoutGil::WithoutGil() {
  if (python_runs() && PyGILState_Check()) state_ = PyEval_SaveThread();
}

WithoutGil::~WithoutGil() {
  if (state_ != nullptr) PyEval_RestoreThread(static_cast<PyThreadState*>(state_));
}

bool wait_interruptibly(const std::function<bool(Clock::time_point)>& done_by, Clock::time_point until) {
  for (;;) {
    const auto now = Clock::now();
    if (done_by(until - now > kSlice ? now + kSlice : until)) return true;
    if (Clock::now() >= until) return false;
    handle_signals();
  }
}

void wait_interruptibly(Operation& operation) {
  const WithoutGil without_gil;
  wait_interruptibly([&](Clock::time_point until) { return operation.wait_until(until); }, Clock::time_point::max());
  if (const auto error = operation.error()) std::rethrow_exception(error);
}

}  // namespace merak
