#include "sparse/chunks.h"

#include <utility>

namespace merak {
namespace {

// Appends rows to chunks of one kind and contributor.
class Cutter {
 public:
  Cutter(std::vector<Chunk>& chunks, std::size_t chunk_rows) : chunks_(chunks), chunk_rows_(chunk_rows) {}

  void cut(Chunk::Kind kind, std::uint32_t contributor, const std::vector<std::uint32_t>& rows) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i % chunk_rows_ == 0) chunks_.push_back({kind, contributor, {}});
      chunks_.back().rows.push_back(rows[i]);
    }
  }

 private:
  std::vector<Chunk>& chunks_;
  const std::size_t chunk_rows_;
};

}  // namespace

std::vector<std::vector<Chunk>> chunks_of(const UnionRows& rows, const Deal& deal, std::size_t chunk_rows) {
  const std::size_t ranks = static_cast<std::size_t>(rows.size);
  std::vector<std::vector<std::uint32_t>> shared(ranks), alone(ranks * ranks);  // by owner, by owner and contributor
  for (std::uint32_t u = 0; u < rows.rows(); ++u) {
    const auto contributors = rows.of(u);
    const std::uint32_t owner = deal.owner[u];
    (contributors.size() > 1 ? shared[owner] : alone[owner * ranks + contributors.front()]).push_back(u);
  }
  std::vector<std::vector<Chunk>> chunks(ranks);
  for (std::uint32_t owner = 0; owner < ranks; ++owner) {
    Cutter cutter(chunks[owner], chunk_rows);
    cutter.cut(Chunk::Kind::kShared, owner, shared[owner]);
    cutter.cut(Chunk::Kind::kHome, owner, alone[owner * ranks + owner]);
    for (std::uint32_t other = 0; other < ranks; ++other)
      if (other != owner) cutter.cut(Chunk::Kind::kLent, other, alone[owner * ranks + other]);
  }
  return chunks;
}

}  // namespace merak
