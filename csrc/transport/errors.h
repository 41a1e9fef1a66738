#pragma once
// Recoverable errors: a user can meet them through no fault of merak's. Each text names the operation, the group, this
// rank, the peer and what to do. Anything else thrown here is a bug in merak.

#include <stdexcept>
#include <string>

namespace merak {

// The network or a peer failed: process killed, connection lost or refused, group aborted or destroyed.
struct NetworkError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An operation did not complete before its deadline.
struct TimeoutError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Ranks disagree about an operation (kind, size, dtype, root, ...), or a peer broke the protocol.
struct MismatchError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace merak
