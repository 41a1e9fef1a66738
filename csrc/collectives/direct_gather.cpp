#include "collectives/direct_gather.h"

#include "collectives/cut.h"

namespace merak {

Program direct_gather(int rank, int size, int root, std::size_t shard_bytes, bool in_place) {
  const auto place_of = [&](int r) { return Place{kOutput, static_cast<std::size_t>(r) * shard_bytes}; };
  Program program;
  if (shard_bytes == 0) return program;
  if (rank != root) {
    program.send(root, {kInput, 0}, shard_bytes);
    return program;
  }
  for (int distance = 1; distance < size; ++distance) {
    const int from = wrap(root + distance, size);
    std::vector<std::uint32_t> after;
    if (distance > 2 && shard_bytes > kAtOnceBytes) after = {static_cast<std::uint32_t>(distance - 3)};
    program.receive(from, place_of(from), shard_bytes, after);
  }
  if (!in_place) copy_in_steps(program, place_of(root), {kInput, 0}, shard_bytes);
  return program;
}

}  // namespace merak
