#pragma once
// Copies of boxes, as data and as a kernel: what a kCopyStrided step does. A *piece* is a run of bytes that is
// contiguous on both sides; pieces repeat along dimensions, each with a stride on either side. So a part of a
// row-major tensor is packed, unpacked, or moved to another tensor, in one step.
//
// A *line* is all pieces along the last dimension. On a CPU the body copies a line at a time, on a GPU a word of it, in
// words as large as everything is aligned to.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "transport/host_device.h"

namespace merak {

struct StridedCopy {
  static constexpr std::size_t kMostDims = 8;

  struct Dim {
    std::size_t count = 1;
    std::size_t at_stride = 0, from_stride = 0;  // bytes

    bool operator==(const Dim&) const = default;
  };

  std::size_t piece_bytes = 0;
  std::array<Dim, kMostDims> dims{};  // the first dim_count; the last one changes fastest
  std::size_t dim_count = 0;

  bool operator==(const StridedCopy&) const = default;

  // Puts a dimension around what is there: joined to the piece, or to the dimension before, where both sides go on
  // without a gap. Nothing for a count of 1.
  void add_outer(Dim dim) {
    if (dim.count == 1) return;
    if (dim_count == 0 && dim.at_stride == piece_bytes && dim.from_stride == piece_bytes) {
      piece_bytes *= dim.count;
    } else if (dim_count > 0 && dim.at_stride == dims[0].at_stride * dims[0].count &&
               dim.from_stride == dims[0].from_stride * dims[0].count) {
      dims[0].count *= dim.count;
    } else {
      if (dim_count == kMostDims)
        throw std::length_error("a strided copy of more than " + std::to_string(kMostDims) + " dimensions");
      std::copy_backward(dims.begin(), dims.begin() + dim_count, dims.begin() + dim_count + 1);
      dims[0] = dim, ++dim_count;
    }
  }

  bool is_contiguous() const { return dim_count == 0; }

  std::size_t pieces() const {
    std::size_t pieces = 1;
    for (std::size_t k = 0; k < dim_count; ++k) pieces *= dims[k].count;
    return pieces;
  }
  std::size_t bytes() const { return pieces() * piece_bytes; }

  // How far the two places must reach.
  std::size_t at_bytes() const { return reach(&Dim::at_stride); }
  std::size_t from_bytes() const { return reach(&Dim::from_stride); }

  // Calls visit(offset at, offset from) for every piece.
  template <class Visit>
  void for_each_piece(Visit visit) const {
    for (std::size_t i = 0, count = bytes() == 0 ? 0 : pieces(); i < count; ++i) {
      std::size_t rest = i, at = 0, from = 0;
      for (std::size_t k = dim_count; k-- > 0; rest /= dims[k].count)
        at += rest % dims[k].count * dims[k].at_stride, from += rest % dims[k].count * dims[k].from_stride;
      visit(at, from);
    }
  }

 private:
  std::size_t reach(std::size_t Dim::*stride) const {
    if (bytes() == 0) return 0;
    std::size_t end = piece_bytes;
    for (std::size_t k = 0; k < dim_count; ++k) end += (dims[k].count - 1) * (dims[k].*stride);
    return end;
  }
};

struct alignas(16) Word16 {
  std::uint64_t halves[2];
};

template <class Word>
struct CopyStrided {
  Word* at;
  const Word* from;
  StridedCopy copy;   // in words, not in bytes
  std::size_t share;  // the words of a line that one index copies

  MERAK_HD std::size_t piece_words() const { return copy.piece_bytes; }
  MERAK_HD StridedCopy::Dim last() const {
    return copy.dim_count == 0 ? StridedCopy::Dim() : copy.dims[copy.dim_count - 1];
  }
  MERAK_HD std::size_t line_words() const { return last().count * piece_words(); }
  MERAK_HD std::size_t shares() const { return (line_words() + share - 1) / share; }  // of a line

  MERAK_HD void operator()(std::size_t i) const {
    const std::size_t begin = i % shares() * share;
    std::size_t rest = i / shares(), to = 0, source = 0;
    for (std::size_t k = copy.dim_count == 0 ? 0 : copy.dim_count - 1; k-- > 0; rest /= copy.dims[k].count) {
      const std::size_t coordinate = rest % copy.dims[k].count;
      to += coordinate * copy.dims[k].at_stride, source += coordinate * copy.dims[k].from_stride;
    }
    const std::size_t left = line_words() - begin;
    copy_words(at + to, from + source, begin, begin + (left < share ? left : share));
  }

 private:
  // Words begin to before end of a line.
  MERAK_HD void copy_words(Word* to, const Word* source, std::size_t begin, std::size_t end) const {
    const StridedCopy::Dim line = last();
    if (piece_words() == 1) {
      for (std::size_t word = begin; word < end; ++word) to[word * line.at_stride] = source[word * line.from_stride];
      return;
    }
    for (std::size_t word = begin; word < end;) {
      const std::size_t piece = word / piece_words(), into = word % piece_words();
      const std::size_t left = piece_words() - into, count = left < end - word ? left : end - word;
      memcpy(to + piece * line.at_stride + into, source + piece * line.from_stride + into, count * sizeof(Word));
      word += count;
    }
  }
};

// Calls visit(CopyStrided<Word>, lines) with the largest words that both places and everything in the copy allow.
// `share`: how many words an index takes; kWholeLines for all of a line.
inline constexpr std::size_t kWholeLines = SIZE_MAX;

template <class Word, class Visit>
void visit_body(std::byte* at, const std::byte* from, StridedCopy copy, std::size_t share, Visit visit) {
  copy.piece_bytes /= sizeof(Word);
  for (std::size_t k = 0; k < copy.dim_count; ++k)
    copy.dims[k].at_stride /= sizeof(Word), copy.dims[k].from_stride /= sizeof(Word);
  const std::size_t last = copy.dim_count == 0 ? 1 : copy.dims[copy.dim_count - 1].count;
  const CopyStrided<Word> body{reinterpret_cast<Word*>(at), reinterpret_cast<const Word*>(from), copy,
                               std::min(share, last * copy.piece_bytes)};
  visit(body, copy.pieces() / last);
}

template <class Visit>
void with_copy_body(std::byte* at, const std::byte* from, const StridedCopy& copy, std::size_t share, Visit visit) {
  if (copy.bytes() == 0) return;
  std::size_t all = copy.piece_bytes | reinterpret_cast<std::uintptr_t>(at) | reinterpret_cast<std::uintptr_t>(from);
  for (std::size_t k = 0; k < copy.dim_count; ++k) all |= copy.dims[k].at_stride | copy.dims[k].from_stride;
  if (all % 16 == 0) return visit_body<Word16>(at, from, copy, share, visit);
  if (all % 8 == 0) return visit_body<std::uint64_t>(at, from, copy, share, visit);
  if (all % 4 == 0) return visit_body<std::uint32_t>(at, from, copy, share, visit);
  if (all % 2 == 0) return visit_body<std::uint16_t>(at, from, copy, share, visit);
  visit_body<std::uint8_t>(at, from, copy, share, visit);
}

// On the calling thread.
void copy_strided(std::byte* at, const std::byte* from, const StridedCopy& copy);

}  // namespace merak
