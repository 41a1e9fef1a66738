#pragma once
// Tokens of sequences, gathered together and put back.
//
// A *full* tensor is [sequences, length, ...], its *part* [sequences, kept, ...], and `index`, [sequences, kept], says
// for each token of the part which one of its sequence it is. Gathering copies from the full tensor to the part,
// placing from the part to the full one. Nothing but bits is moved, so that every dtype is served by the same code: a
// token is so many *words* of the largest size (1 to 16 bytes) that divides it and its addresses. A body copies one
// *strip* of a token's words: the whole token on a CPU, where that is a memcpy, and one word on a GPU, where
// neighbouring threads then touch neighbouring words.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "transport/for_each.h"

namespace merak::data {

struct TokenMove {
  std::size_t sequences, length, kept;
  std::size_t token_bytes;
  const std::int64_t* index;  // [sequences, kept], each below `length`, none twice in a sequence
};

enum class Direction { kGather, kPlace };

template <class Word, Direction kDirection>
struct MoveTokens {
  Word *full, *part;
  const std::int64_t* index;
  std::size_t length, kept, words;  // of a sequence, of it kept, of a token
  std::size_t strip;                // words that one body copies

  MERAK_HD std::size_t strips() const { return words / strip; }

  MERAK_HD void operator()(std::size_t i) const {
    const std::size_t token = i / strips(), begin = i % strips() * strip;
    Word* in_full = full + (token / kept * length + static_cast<std::size_t>(index[token])) * words + begin;
    Word* in_part = part + token * words + begin;
    if constexpr (kDirection == Direction::kGather)
      copy(in_part, in_full);
    else
      copy(in_full, in_part);
  }

 private:
  MERAK_HD void copy(Word* to, const Word* from) const { memcpy(to, from, strip * sizeof(Word)); }
};

struct alignas(16) SixteenBytes {
  std::uint64_t halves[2];
};

template <class Word>
bool fits(const TokenMove& move, const void* full, const void* part) {
  const auto all = move.token_bytes | reinterpret_cast<std::uintptr_t>(full) | reinterpret_cast<std::uintptr_t>(part);
  return all % sizeof(Word) == 0;
}

inline std::size_t strip_of(OnCpu, std::size_t words) { return words; }
#ifdef __CUDACC__
inline std::size_t strip_of(OnCuda, std::size_t) { return 1; }
#endif

template <class Word, Direction kDirection, class Place>
void move_words(Place place, const TokenMove& move, void* full, void* part) {
  const std::size_t words = move.token_bytes / sizeof(Word);
  const MoveTokens<Word, kDirection> body{
      static_cast<Word*>(full), static_cast<Word*>(part), move.index, move.length, move.kept, words,
      strip_of(place, words)};
  for_each(place, move.sequences * move.kept * body.strips(), body);
}

template <Direction kDirection, class Place>
void move_tokens(Place place, const TokenMove& move, void* full, void* part) {
  if (move.token_bytes == 0 || move.kept == 0) return;
  if (fits<SixteenBytes>(move, full, part)) return move_words<SixteenBytes, kDirection>(place, move, full, part);
  if (fits<std::uint64_t>(move, full, part)) return move_words<std::uint64_t, kDirection>(place, move, full, part);
  if (fits<std::uint32_t>(move, full, part)) return move_words<std::uint32_t, kDirection>(place, move, full, part);
  if (fits<std::uint16_t>(move, full, part)) return move_words<std::uint16_t, kDirection>(place, move, full, part);
  move_words<std::uint8_t, kDirection>(place, move, full, part);
}

// part[s, j] = full[s, index[s, j]]
template <class Place>
void gather_tokens(Place place, const TokenMove& move, const void* full, void* part) {
  move_tokens<Direction::kGather>(place, move, const_cast<void*>(full), part);
}

// full[s, index[s, j]] = part[s, j]; other tokens stay.
template <class Place>
void place_tokens(Place place, const TokenMove& move, const void* part, void* full) {
  move_tokens<Direction::kPlace>(place, move, full, const_cast<void*>(part));
}

// The first sequence whose indices are not ascending numbers below `length`; `sequences` if there is none.
inline std::size_t first_bad_sequence(const TokenMove& move) {
  for (std::size_t sequence = 0; sequence < move.sequences; ++sequence) {
    std::int64_t previous = -1;
    for (std::size_t j = 0; j < move.kept; ++j) {
      const std::int64_t token = move.index[sequence * move.kept + j];
      if (token <= previous || token >= static_cast<std::int64_t>(move.length)) return sequence;
      previous = token;
    }
  }
  return move.sequences;
}

}  // namespace merak::data
