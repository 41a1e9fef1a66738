#pragma once
// A bounded queue of bytes: one direction of a link in memory. Not thread-safe.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace merak {

class ByteQueue {
 public:
  explicit ByteQueue(std::size_t capacity) : capacity_(capacity) {}

  std::size_t size() const { return size_; }

  // Moves as many bytes as fit, or as there are; returns how many.
  std::size_t push(std::span<const iovec> from) {
    if (!bytes_) bytes_ = std::make_unique_for_overwrite<std::byte[]>(capacity_);
    std::size_t moved = 0;
    for (const iovec& piece : from) moved += push(static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
    return moved;
  }
  std::size_t pop(std::span<const iovec> to) {
    std::size_t moved = 0;
    for (const iovec& piece : to) moved += pop(static_cast<std::byte*>(piece.iov_base), piece.iov_len);
    return moved;
  }

 private:
  // Each moves at most two runs: up to the end of the ring, and from its beginning.
  std::size_t push(const std::byte* from, std::size_t bytes) {
    bytes = std::min(bytes, capacity_ - size_);
    const std::size_t end = (begin_ + size_) % capacity_, run = std::min(bytes, capacity_ - end);
    if (bytes == 0) return 0;
    std::memcpy(bytes_.get() + end, from, run);
    std::memcpy(bytes_.get(), from + run, bytes - run);
    size_ += bytes;
    return bytes;
  }
  std::size_t pop(std::byte* to, std::size_t bytes) {
    bytes = std::min(bytes, size_);
    const std::size_t run = std::min(bytes, capacity_ - begin_);
    if (bytes == 0) return 0;
    std::memcpy(to, bytes_.get() + begin_, run);
    std::memcpy(to + run, bytes_.get(), bytes - run);
    begin_ = (begin_ + bytes) % capacity_;
    size_ -= bytes;
    return bytes;
  }

  const std::size_t capacity_;
  std::unique_ptr<std::byte[]> bytes_;  // allocated at the first push: most links of a large group stay unused
  std::size_t begin_ = 0, size_ = 0;
};

}  // namespace merak
