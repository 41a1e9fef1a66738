#pragma once
// Scratch memory that is used again and again: a few *slots* of equal size, taken in turns. What a program moves
// through it stays in the cache, and its size does not grow with the message.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "transport/program.h"

namespace merak {

inline constexpr std::size_t kWindowSlots = 6;  // enough for chunks to be on the wire, waiting and worked on at once

class Window {
 public:
  // Reserves `uses` slots of that size, kWindowSlots at most.
  Window(Program& program, std::size_t slot_bytes, std::size_t uses)
      : slot_bytes_(slot_bytes),
        slots_(std::min(uses, kWindowSlots)),
        buffer_(program.add_scratch(slot_bytes * slots_)),
        busy_(slots_) {}

  // The place of use i, and the steps after which it may be written: those that ended the use before it.
  Place place(std::size_t i) const { return {buffer_, i % slots_ * slot_bytes_}; }
  const std::vector<std::uint32_t>& free_after(std::size_t i) const { return busy_[i % slots_]; }

  // Uses must be ended in order of i.
  void end_use(std::size_t i, std::vector<std::uint32_t> steps) { busy_[i % slots_] = std::move(steps); }

 private:
  const std::size_t slot_bytes_, slots_;
  const int buffer_;
  std::vector<std::vector<std::uint32_t>> busy_;  // by slot
};

}  // namespace merak
