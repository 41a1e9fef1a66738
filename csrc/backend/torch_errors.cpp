#include "backend/torch_errors.h"

#include <c10/util/Exception.h>

#include "transport/errors.h"

namespace merak {
namespace {

[[noreturn]] void throw_as_torch_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const NetworkError& e) {
    C10_THROW_ERROR(DistNetworkError, e.what());
  } catch (const TimeoutError& e) {
    C10_THROW_ERROR(DistBackendError, e.what());
  } catch (const MismatchError& e) {
    C10_THROW_ERROR(DistBackendError, e.what());
  }
}

}  // namespace

std::exception_ptr as_torch_error(std::exception_ptr error) {
  if (!error) return nullptr;
  try {
    throw_as_torch_error(error);
  } catch (...) {
    return std::current_exception();
  }
}

}  // namespace merak
