#pragma once
// The listening side's half of one handshake, moved on as bytes arrive.

#include <array>
#include <chrono>
#include <optional>
#include <string>

#include "transport/descriptor.h"
#include "transport/hello.h"
#include "transport/operation.h"

namespace merak {

class Handshake {
 public:
  Handshake(Descriptor socket, Clock::time_point deadline);

  int descriptor() const { return socket_.get(); }
  Clock::time_point deadline() const { return deadline_; }
  const std::string& peer() const { return peer_; }  // address and port

  // Reads what is there and never more than the hello; nothing while it is incomplete. Throws NetworkError when the
  // connection ended and MismatchError when something else than this version of merak speaks.
  std::optional<Hello> advance();

  // Answers. A welcome is followed by take(); after a refusal the handshake is destroyed.
  void answer(Answer answer);
  Descriptor take() { return std::move(socket_); }

 private:
  Descriptor socket_;
  Clock::time_point deadline_;
  std::string peer_;
  std::array<std::byte, kHelloBytes> bytes_{};
  std::size_t arrived_ = 0;
};

}  // namespace merak
