#pragma once
// A message in memory: a list of pieces that reads as one run of bytes. A list of tensors thus takes part in a
// collective as one message without being copied together.

#include <algorithm>
#include <cstddef>
#include <vector>

namespace merak {

struct Piece {
  std::byte* data;
  std::size_t bytes;
};

// Does not own the memory. Every piece holds whole elements.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, std::size_t bytes) { append(data, bytes); }

  void append(void* data, std::size_t bytes) {
    if (bytes == 0) return;
    pieces_.push_back({static_cast<std::byte*>(data), bytes});
    ends_.push_back(size() + bytes);
  }

  void append(const Buffer& other) {
    for (const Piece& piece : other.pieces_) append(piece.data, piece.bytes);
  }

  std::size_t size() const { return ends_.empty() ? 0 : ends_.back(); }

  // Bytes [offset, offset + bytes), if they are one run of memory; else null. Needs offset + bytes <= size().
  std::byte* one_run(std::size_t offset, std::size_t bytes) const {
    std::byte* address = nullptr;
    for_each_run(offset, bytes, [&](std::byte* data, std::size_t run) { address = run == bytes ? data : nullptr; });
    return address;
  }

  // Where byte `offset` lies; null at the end. Up to the end of its piece the bytes that follow lie behind it.
  std::byte* at(std::size_t offset) const {
    const std::size_t i = std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin();
    return i == pieces_.size() ? nullptr : pieces_[i].data + (offset - (ends_[i] - pieces_[i].bytes));
  }

  // Calls visit(data, bytes) for each run of memory that bytes [offset, offset + bytes) cover, in order.
  // Needs offset + bytes <= size().
  template <class Visit>
  void for_each_run(std::size_t offset, std::size_t bytes, Visit visit) const {
    std::size_t i = std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin();
    while (bytes > 0) {
      const std::size_t into = offset - (ends_[i] - pieces_[i].bytes);
      const std::size_t run = std::min(bytes, pieces_[i].bytes - into);
      visit(pieces_[i].data + into, run);
      offset += run, bytes -= run, ++i;
    }
  }

 private:
  std::vector<Piece> pieces_;
  std::vector<std::size_t> ends_;  // ends_[i]: where piece i ends in the message
};

}  // namespace merak
