#pragma once
// Numbers taken from the fuzzer's bytes; zeros when there are no more.

#include <cstddef>
#include <cstdint>

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), end_(data + size) {}

  std::size_t below(std::size_t limit) {
    std::size_t value = 0;
    for (std::size_t most = limit - 1; most > 0; most >>= 8) value = value << 8 | (data_ < end_ ? *data_++ : 0);
    return value % limit;
  }
  int small(std::size_t limit) { return static_cast<int>(below(limit)); }
  bool empty() const { return data_ == end_; }

 private:
  const std::uint8_t *data_, *end_;
};
