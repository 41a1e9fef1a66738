#include "transport/channel.h"

#include <algorithm>
#include <cstring>

namespace merak {
namespace {

void append_header(const Frame& frame, std::string& bytes) {
  std::array<std::byte, kHeaderBytes> header;
  write_header(frame, header);
  bytes.append(reinterpret_cast<const char*>(header.data()), header.size());
}

}  // namespace

// Out -----------------------------------------------------------------------------------------------------------------

bool Channel::next_frame() {
  Frame frame;
  out_.clear();
  out_.append(header_out_.data(), kHeaderBytes);
  out_data_ = control_.empty();
  if (!out_data_) {
    frame = control_.front();
    control_.pop_front();
  } else if (messages_.empty()) {
    out_.clear();
    return false;
  } else {
    frame = next_part();
  }
  write_header(frame, header_out_);
  return true;
}

// The next frame of the most urgent message.
Frame Channel::next_part() {
  auto& [urgency, message] = *messages_.begin();
  out_urgency_ = urgency;
  Frame frame = message.frame;
  frame.payload =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(kLargestPayload, frame.message_bytes - frame.offset));
  message.frame.offset += frame.payload;
  message.buffer->for_each_run(message.start + frame.offset, frame.payload,
                               [this](std::byte* data, std::size_t run) { out_.append(data, run); });
  return frame;
}

void Channel::frame_written() {
  if (!out_data_) return;
  auto it = messages_.find(out_urgency_);
  if (it->second.frame.offset < it->second.frame.message_bytes) return;
  ActiveOperation* operation = it->second.operation;
  const std::uint32_t step = it->first.step;
  messages_.erase(it);
  owner_.sent(peer_, operation, step);
}

// The peer may have closed its end and its last words, a goodbye or the reason of a failure, may still lie unread on
// ours. So a link that takes no more is read to its end, which then says what happened.
std::size_t Channel::write_link() try { return link_->write(out_.front()); } catch (const LinkClosed&) {
  readable_ = ending_ = write_closed_ = true;
  return 0;
}

std::size_t Channel::write(std::size_t budget) {
  std::size_t moved = 0;
  while (link_ && writable_ && !write_closed_ && moved < budget) {
    if (out_.empty() && !next_frame()) break;
    const std::size_t bytes = write_link();
    if (bytes == 0) writable_ = false;
    out_.drop(bytes);
    moved += bytes;
    if (out_.empty()) frame_written();
  }
  return moved;
}

std::unique_ptr<Link> Channel::release(const Frame& last, const std::string& reason, std::string& bytes) {
  bytes.clear();
  for (; !out_.empty(); out_.drop(out_.front().front().iov_len))
    bytes.append(static_cast<const char*>(out_.front().front().iov_base), out_.front().front().iov_len);
  for (const Frame& frame : control_) append_header(frame, bytes);
  append_header(last, bytes);
  bytes += reason;
  control_.clear(), messages_.clear(), in_.clear();
  in_payload_ = false;
  return std::move(link_);
}

// In ------------------------------------------------------------------------------------------------------------------

bool Channel::next_header() {
  if (staged_end_ - staged_begin_ < kHeaderBytes) return false;
  const std::span<const std::byte, kHeaderBytes> header(staged_.data() + staged_begin_, kHeaderBytes);
  const Frame frame = parse_header(header);
  staged_begin_ += kHeaderBytes;
  begin_payload(frame);
  return true;
}

void Channel::begin_payload(const Frame& frame) {
  frame_in_ = frame;
  in_payload_ = true;
  reason_in_.clear();
  if (frame.kind == FrameKind::kData) {
    in_ = owner_.place(peer_, frame);
  } else {
    in_.clear();
    reason_in_.resize(frame.payload);
    in_.append(reason_in_.data(), reason_in_.size());
  }
}

void Channel::take_staged() {
  while (!in_.empty() && staged_begin_ < staged_end_) {
    const iovec run = in_.front().front();
    const std::size_t part = std::min(run.iov_len, staged_end_ - staged_begin_);
    std::memcpy(run.iov_base, staged_.data() + staged_begin_, part);
    staged_begin_ += part;
    in_.drop(part);
  }
}

// The rest of the payload goes straight to its place; what follows it on the stream is staged.
std::size_t Channel::read_link() {
  std::memmove(staged_.data(), staged_.data() + staged_begin_, staged_end_ - staged_begin_);
  staged_end_ -= staged_begin_, staged_begin_ = 0;
  std::array<iovec, Runs::kMostRuns + 1> to;
  const std::span<const iovec> rest = in_.front();
  std::copy(rest.begin(), rest.end(), to.begin());
  std::size_t direct = 0, count = rest.size();
  for (const iovec& run : rest) direct += run.iov_len;
  if (direct == in_.left()) to[count++] = {staged_.data() + staged_end_, staged_.size() - staged_end_};
  const std::span<const iovec> room = std::span(to).first(count);
  const std::size_t bytes = link_->read(room);
  std::size_t most = 0;
  for (const iovec& run : room) most += run.iov_len;
  if (bytes == 0 || (bytes < most && !ending_ && link_->short_read_empties())) readable_ = false;
  const std::size_t placed = std::min(bytes, direct);
  in_.drop(placed);
  staged_end_ += bytes - placed;
  return bytes;
}

std::size_t Channel::read(std::size_t budget) {
  std::size_t moved = 0;
  while (link_ && moved < budget) {
    if (in_payload_) {
      take_staged();
      if (in_.empty()) {
        in_payload_ = false;
        owner_.arrived(peer_, frame_in_, reason_in_);
        continue;
      }
    } else if (next_header()) {
      continue;
    }
    if (!readable_) break;
    moved += read_link();
  }
  if (moved >= budget) readable_ = true;  // what has come already is not taken apart yet
  return moved;
}

}  // namespace merak
