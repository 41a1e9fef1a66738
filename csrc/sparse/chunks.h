#pragma once
// How the rows of one owner are cut into chunks; see balanced.h.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse/deal.h"

namespace merak {

struct Chunk {
  enum class Kind { kShared, kHome, kLent };

  Kind kind = Kind::kShared;
  std::uint32_t contributor = 0;    // of a home or lent chunk: the only one
  std::vector<std::uint32_t> rows;  // of the union

  bool operator==(const Chunk&) const = default;
};

// The chunks of every owner, by rank, each of `chunk_rows` rows at most.
std::vector<std::vector<Chunk>> chunks_of(const UnionRows& rows, const Deal& deal, std::size_t chunk_rows);

}  // namespace merak
