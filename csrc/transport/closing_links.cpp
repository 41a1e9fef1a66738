#include "transport/closing_links.h"

#include <array>
#include <utility>

namespace merak {
namespace {

constexpr auto kForSlowPeers = std::chrono::seconds(30);
constexpr int kMostReads = 16;  // in a turn: a peer that never stops sending must not hold up the engine

}  // namespace

void ClosingLinks::add(std::unique_ptr<Link> link, std::string last_bytes, Clock::time_point until) {
  links_.push_back({.link = std::move(link), .bytes = std::move(last_bytes), .until = until});
}

void ClosingLinks::progress(Clock::time_point now) {
  links_.remove_if([now](Closing& closing) { return over(closing, now); });
}

bool ClosingLinks::over(Closing& closing, Clock::time_point now) try {
  while (closing.written < closing.bytes.size()) {
    const iovec rest = {closing.bytes.data() + closing.written, closing.bytes.size() - closing.written};
    const std::size_t bytes = closing.link->write({&rest, 1});
    if (bytes == 0) break;
    closing.written += bytes;
    if (closing.written == closing.bytes.size()) closing.link->finish_writing();
  }
  std::array<std::byte, 64 * 1024> discarded;
  const iovec to = {discarded.data(), discarded.size()};
  for (int reads = 0; reads < kMostReads && closing.link->read({&to, 1}) > 0; ++reads) {
  }
  // Closed with something undelivered, the system may throw it away: a peer that is only slow gets more time.
  const bool delivered = closing.written == closing.bytes.size() && closing.link->drained();
  return now >= closing.until + (delivered ? Clock::duration(0) : kForSlowPeers);
} catch (const LinkClosed&) {  // by the peer: nobody reads any more
  return true;
}

bool ClosingLinks::delivered() const {
  for (const Closing& closing : links_)
    if (closing.written < closing.bytes.size() || !closing.link->drained()) return false;
  return true;
}

}  // namespace merak
