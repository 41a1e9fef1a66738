#pragma once
// A link over a connected TCP socket.

#include "transport/descriptor.h"
#include "transport/link.h"

namespace merak {

class TcpLink : public Link {
 public:
  // Needs a connected, non-blocking socket.
  explicit TcpLink(Descriptor socket) : socket_(std::move(socket)) {}

  std::size_t write(std::span<const iovec> from) override;
  std::size_t read(std::span<const iovec> to) override;
  void finish_writing() override;
  bool drained() const override;
  bool short_read_empties() const override { return true; }
  int descriptor() const override { return socket_.get(); }

 private:
  Descriptor socket_;
};

}  // namespace merak
