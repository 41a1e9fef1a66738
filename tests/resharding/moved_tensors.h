#pragma once
// What is in the tensors of every rank before and after a batch of moves, worked out element by element; and random
// batches.

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "resharding/local_tensors.h"
#include "resharding/oracle.h"
#include "resharding/programs.h"
#include "transport/play.h"

namespace merak {

// Small whole numbers, so that sums and products of a few are exact in any order.
inline float number(std::uint32_t tensor, std::size_t element, std::size_t contributor) {
  return static_cast<float>(1 + (31 * tensor + 7 * element + 5 * contributor + element * contributor) % 3);
}

// The tensors of all ranks before and after a batch of moves.
class MovedTensors {
 public:
  MovedTensors(const MoveBatch& batch, int ranks) : batch_(batch), memory_(static_cast<std::size_t>(ranks)) {
    for (std::uint32_t tensor = 0; tensor < batch.moves.size(); ++tensor) {
      add_side(tensor, batch.moves[tensor].source, &Memory::input);
      add_side(tensor, batch.moves[tensor].target, &Memory::output);
    }
  }

  const std::vector<Memory>& expected() const { return memory_; }

  // Outputs full of noise, but for what the programs leave to whoever owns it.
  std::vector<Memory> before() const {
    std::vector<Memory> memory = memory_;
    for (std::size_t rank = 0; rank < memory.size(); ++rank) {
      std::fill(memory[rank].output.begin(), memory[rank].output.end(), std::byte{0xa5});
      const LocalTensors target = target_tensors(batch_, static_cast<int>(rank));
      for (std::size_t tensor : zeroed_tensors(batch_, static_cast<int>(rank)))
        std::fill_n(memory[rank].output.begin() + static_cast<std::ptrdiff_t>(target.offsets[tensor]),
                    target.bytes(tensor), std::byte{0});
    }
    return memory;
  }

 private:
  void add_side(std::uint32_t tensor, const Layout& layout, Message Memory::*side) {
    const Move& move = batch_.moves[tensor];
    const bool is_source = side == &Memory::input;
    for (std::size_t place = 0; place < layout.ranks.size(); ++place)
      for (std::size_t element : elements_of(held_by_place(layout, move.shape, place), move.shape)) {
        Message& memory = memory_[static_cast<std::size_t>(layout.ranks[place])].*side;
        if (!is_source && gets_zeros(layout, place))
          memory.insert(memory.end(), element_bytes(move.dtype), std::byte{0});
        else if (is_source)
          append(memory, tensor, number(tensor, element, contributor_of(layout, place)), element);
        else
          append(memory, tensor, reduced(tensor, element), element);
      }
  }

  // In tensors that are not reduced any bits will do.
  void append(Message& memory, std::uint32_t tensor, float value, std::size_t element) const {
    if (batch_.units_of_tensor(tensor).reduction == Reduction::kNone) {
      for (std::size_t i = 0; i < element_bytes(batch_.moves[tensor].dtype); ++i)
        memory.push_back(static_cast<std::byte>(tensor * 101 + element * 37 + (element >> 8) * 11 + i * 59));
      return;
    }
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    memory.insert(memory.end(), bytes, bytes + sizeof(value));
  }

  float reduced(std::uint32_t tensor, std::size_t element) const {
    const MoveUnits& units = batch_.units_of_tensor(tensor);
    const std::size_t contributors = units.source.contributors.front().size();
    float value = number(tensor, element, 0);
    for (std::size_t c = 1; c < contributors; ++c) {
      const float other = number(tensor, element, c);
      if (units.reduction == Reduction::kSum) value += other;
      if (units.reduction == Reduction::kProduct) value *= other;
      if (units.reduction == Reduction::kMin) value = std::min(value, other);
      if (units.reduction == Reduction::kMax) value = std::max(value, other);
    }
    return units.divisor > 1 ? value / static_cast<float>(units.divisor) : value;
  }

  const MoveBatch& batch_;
  std::vector<Memory> memory_;
};

inline bool is_partial(const Layout& layout) {
  return std::any_of(layout.placements.begin(), layout.placements.end(),
                     [](const Placement& placement) { return placement.kind == PlacementKind::kPartial; });
}

// Of which all that is reduced can be reduced in one operation, or nothing.
inline std::optional<MoveBatch> random_batch(RandomMoves& random) {
  std::vector<Move> moves;
  for (std::size_t i = random.draw(1, 4); i > 0; --i) {
    moves.push_back(random.move());
    if (is_partial(moves.back().source)) moves.back().dtype = DType::kFloat32;
  }
  MoveBatch batch = cut(std::move(moves));
  try {
    reduced_as(batch);
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
  return batch;
}

}  // namespace merak
