#pragma once
// One peer's link in use: cuts messages into frames on the way out, and takes frames apart on the way in.
//
// Out: control frames first, then of the messages queued the most urgent one, a frame of at most 256 KiB at a time, so
// that a message that becomes urgent later waits for one frame at the most. Payloads leave from the user's memory and
// arrive in it: nothing is copied but what shares a read with a header.

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "transport/buffer.h"
#include "transport/frame.h"
#include "transport/link.h"
#include "transport/runs.h"

namespace merak {

struct ActiveOperation;

// Of two messages to one peer, the one with the smaller urgency goes first.
struct Urgency {
  std::int64_t rank_of_priority = 0;  // minus the operation's priority
  std::uint64_t started = 0;          // operations count in the order of their start
  std::uint32_t step = 0;

  auto operator<=>(const Urgency&) const = default;
};

struct OutgoingMessage {
  Frame frame;  // but for offset and payload, which each frame has of its own
  const Buffer* buffer = nullptr;
  std::size_t start = 0;  // where in the buffer the message begins
  ActiveOperation* operation = nullptr;
};

// What a channel asks of and tells its owner, during read() and write().
class ChannelOwner {
 public:
  virtual ~ChannelOwner() = default;
  // Where the payload of an arriving data frame goes. Throws MismatchError when nobody expects it.
  virtual Runs place(int peer, const Frame& frame) = 0;
  // The frame has arrived, payload and all; `reason` is an abort frame's text.
  virtual void arrived(int peer, const Frame& frame, const std::string& reason) = 0;
  // All of a message has been handed to the link.
  virtual void sent(int peer, ActiveOperation* operation, std::uint32_t step) = 0;
};

class Channel {
 public:
  Channel(int peer, ChannelOwner& owner) : peer_(peer), owner_(owner) {}

  void adopt(std::unique_ptr<Link> link) { link_ = std::move(link), readable_ = writable_ = true; }
  Link* link() const { return link_.get(); }
  void drop() { link_.reset(); }

  void queue(const Urgency& urgency, OutgoingMessage message) { messages_.emplace(urgency, std::move(message)); }
  void queue_control(const Frame& frame) { control_.push_back(frame); }

  // The link may have become readable, writable; the peer has finished writing.
  void wake(bool readable, bool writable, bool ending) {
    readable_ |= readable, writable_ |= writable, ending_ |= ending;
  }
  // There is something to do, as far as known.
  bool ready() const { return link_ && (readable_ || (writable_ && !write_closed_ && has_output())); }

  // Each moves about `budget` bytes at most and returns how many it moved. Throw LinkClosed and MismatchError.
  std::size_t read(std::size_t budget);
  std::size_t write(std::size_t budget);

  bool has_output() const { return !out_.empty() || !control_.empty() || !messages_.empty(); }

  // Gives the link up for a last word. `bytes` gets what is to be written to it still: the rest of the frame under
  // way, copied out of its memory, the control frames queued, `last`, and `reason` as its payload.
  std::unique_ptr<Link> release(const Frame& last, const std::string& reason, std::string& bytes);

 private:
  bool next_frame();
  Frame next_part();
  std::size_t write_link();
  void frame_written();
  bool next_header();
  void begin_payload(const Frame& frame);
  void take_staged();
  std::size_t read_link();

  const int peer_;
  ChannelOwner& owner_;
  std::unique_ptr<Link> link_;
  bool readable_ = false, writable_ = false;
  bool ending_ = false;        // the peer has finished writing, or closed
  bool write_closed_ = false;  // the link takes no more

  // Out.
  std::deque<Frame> control_;
  std::map<Urgency, OutgoingMessage> messages_;
  std::array<std::byte, kHeaderBytes> header_out_{};
  Runs out_;               // what is left of the frame being written
  bool out_data_ = false;  // it is a data frame
  Urgency out_urgency_;    // of its message

  // In.
  std::array<std::byte, 16 * 1024> staged_;  // read ahead: headers, and small payloads with them
  std::size_t staged_begin_ = 0, staged_end_ = 0;
  bool in_payload_ = false;
  Frame frame_in_;
  Runs in_;  // what is left of its payload's place
  std::string reason_in_;
};

}  // namespace merak
