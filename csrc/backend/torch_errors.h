#pragma once
// merak's errors as torch's own types, so that what users wrote for other backends keeps working.

#include <exception>

namespace merak {

// NetworkError -> DistNetworkError; TimeoutError and MismatchError -> DistBackendError; all else stays as it is.
// Null stays null.
std::exception_ptr as_torch_error(std::exception_ptr error);

// Runs `action`, with the errors it throws translated so.
template <class Action>
decltype(auto) with_torch_errors(Action&& action) {
  try {
    return action();
  } catch (...) {
    std::rethrow_exception(as_torch_error(std::current_exception()));
  }
}

}  // namespace merak
