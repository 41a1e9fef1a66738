#pragma once
// Lists of pieces of memory, as links take them.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace merak {

inline std::size_t total_bytes(std::span<const iovec> pieces) {
  std::size_t total = 0;
  for (const iovec& piece : pieces) total += piece.iov_len;
  return total;
}

// The first `bytes` bytes of the pieces, or all.
inline std::vector<iovec> first_bytes(std::span<const iovec> pieces, std::size_t bytes) {
  std::vector<iovec> first;
  for (const iovec& piece : pieces) {
    const std::size_t part = std::min(piece.iov_len, bytes);
    if (part == 0) continue;
    first.push_back({piece.iov_base, part});
    bytes -= part;
  }
  return first;
}

// Byte `index` of the pieces. Needs index < total_bytes(pieces).
inline std::byte& byte_at(std::span<const iovec> pieces, std::size_t index) {
  while (index >= pieces.front().iov_len) {
    index -= pieces.front().iov_len;
    pieces = pieces.subspan(1);
  }
  return static_cast<std::byte*>(pieces.front().iov_base)[index];
}

}  // namespace merak
