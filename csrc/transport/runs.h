#pragma once
// A list of memory runs that is read or written bit by bit: what is done is dropped from its front.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "transport/buffer.h"

namespace merak {

class Runs {
 public:
  static constexpr std::size_t kMostRuns = 64;  // that one system call is given

  Runs() = default;
  Runs(const Buffer& buffer, std::size_t offset, std::size_t bytes) {
    buffer.for_each_run(offset, bytes, [this](std::byte* data, std::size_t run) { append(data, run); });
  }

  void append(void* data, std::size_t bytes) {
    if (bytes == 0) return;
    runs_.push_back({data, bytes});
    left_ += bytes;
  }

  std::size_t left() const { return left_; }
  bool empty() const { return left_ == 0; }

  // What is left, as far as one system call takes it.
  std::span<const iovec> front() const {
    return std::span(runs_).subspan(first_, std::min(runs_.size() - first_, kMostRuns));
  }

  void drop(std::size_t bytes) {
    left_ -= bytes;
    while (bytes > 0) {
      iovec& run = runs_[first_];
      const std::size_t part = std::min(bytes, run.iov_len);
      run.iov_base = static_cast<std::byte*>(run.iov_base) + part;
      run.iov_len -= part, bytes -= part;
      if (run.iov_len == 0) ++first_;
    }
  }

  void clear() { runs_.clear(), first_ = 0, left_ = 0; }

 private:
  std::vector<iovec> runs_;
  std::size_t first_ = 0;
  std::size_t left_ = 0;
};

}  // namespace merak
