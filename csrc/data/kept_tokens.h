#pragma once
// Which tokens a layer keeps, for random layerwise token dropping (Z. Yao et al., "Random-LTD: Random and Layerwise
// Token Dropping Brings Efficient Training for Large-scale Transformers", 2022).
//
// Of the `length` tokens of each sequence `kept` are chosen, every set of so many equally likely, and listed in
// ascending order. The choice is made by selection sampling (D. Knuth, "The Art of Computer Programming", 3.4.2,
// algorithm S): walk along the tokens and take each with probability (still wanted) / (still to come). What comes out
// is sorted as it is, and a sequence needs no memory but its result: one body per sequence, on CPU and GPU alike.
//
// The random numbers are a function of (seed, step, micro-batch, layer) and the sequence's row in the micro-batch:
// whoever computes that layer again, or on another rank, keeps the same tokens.

#include <cstddef>
#include <cstdint>

#include "data/philox.h"
#include "transport/for_each.h"

namespace merak::data {

struct KeptTokensOf {
  std::uint64_t seed, step;
  std::uint64_t microbatch;  // counted over all ranks
  std::uint64_t layer;
};

struct KeepTokens {
  std::uint64_t key;
  std::uint32_t length, kept;  // tokens of a sequence, and those of them that are kept
  std::int64_t* index;         // [sequences, kept], written

  MERAK_HD void operator()(std::size_t sequence) const {
    std::int64_t* next = index + sequence * kept;
    std::uint32_t wanted = kept;
    for (std::uint32_t token = 0; wanted > 0; token += 4) {
      const RandomWords random = philox(key, token, sequence);
      for (std::uint32_t j = 0; j < 4 && wanted > 0; ++j) {
        const std::uint32_t to_come = length - token - j;
        if (below(random.words[j], to_come) < wanted) {
          *next++ = token + j;
          --wanted;
        }
      }
    }
  }
};

inline KeepTokens keep_tokens_body(const KeptTokensOf& of, std::uint32_t length, std::uint32_t kept,
                                   std::int64_t* index) {
  return {stream_key(of.seed, Purpose::kKeptTokens, of.step, of.microbatch, of.layer), length, kept, index};
}

// Fills `index`, [sequences, kept]. Needs 0 < kept <= length.
template <class Place>
void keep_tokens(Place place, const KeptTokensOf& of, std::size_t sequences, std::uint32_t length, std::uint32_t kept,
                 std::int64_t* index) {
  for_each(place, sequences, keep_tokens_body(of, length, kept, index));
}

}  // namespace merak::data
