#pragma once
// A *link* carries a stream of bytes, both ways, between this rank and one peer of a group. A *transport* makes the
// links of one rank in one group. Neither ever blocks: the engine, one thread for all groups, drives them.

#include <sys/uio.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace merak {

// Thread safety: used by the engine's thread alone, except where said.
class Link {
 public:
  virtual ~Link() = default;  // closes

  // Moves as many bytes as go without waiting and returns how many: 0 when none can go now. Throws LinkClosed when
  // the stream has ended: for a read, only once everything that arrived before has been read.
  virtual std::size_t write(std::span<const iovec> from) = 0;
  virtual std::size_t read(std::span<const iovec> to) = 0;

  // A read that returns less than there was room for has emptied the link: the next one can wait for `descriptor` to
  // become readable.
  virtual bool short_read_empties() const { return false; }

  // No more writes will follow: what was written before still arrives, then the peer's read throws LinkClosed.
  virtual void finish_writing() = 0;

  // True when the peer's machine has everything that was written.
  virtual bool drained() const = 0;

  // A descriptor to wait on with epoll, edge-triggered; -1 for a link in memory, which calls `wake` instead whenever
  // its peer wrote, read, finished or closed (from any thread).
  virtual int descriptor() const { return -1; }
  virtual void set_wake(std::function<void()> wake) { (void)wake; }
};

// The stream has ended; `reason` says how ("closed", "reset by peer", ...).
class LinkClosed : public std::exception {
 public:
  explicit LinkClosed(std::string reason) : reason_(std::move(reason)) {}
  const char* what() const noexcept override { return reason_.c_str(); }

 private:
  std::string reason_;
};

class Transport {
 public:
  // Called once per peer, from any thread, with the link or, when it cannot be had, with why (then `link` is null).
  using OnLink = std::function<void(int peer, std::unique_ptr<Link> link, const std::string& error)>;

  virtual ~Transport() = default;  // as close()

  // Before anything else.
  virtual void start(OnLink on_link) = 0;

  // Asks for the link to `peer`. Returns at once; asking twice is asking once. Both ends ask; a link that only the
  // other end asked for is reported too.
  virtual void connect(int peer) = 0;

  // After it returns on_link is not called any more. Links already handed out live on.
  virtual void close() = 0;
};

}  // namespace merak
