#pragma once
// Scratch memory for segments on their way. What a rank needs it for is of three kinds, each with memory of its own:
// segments *packed* from its source, partial *sums* that have come and get its own values added, and *arrivals* to be
// unpacked or passed on. Of each kind there are so many *windows*, taken by transfers in turn, so that transfers that
// are in flight together do not wait for each other; a window is a few slots, taken by segments in turn.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/program.h"

namespace merak {

class Staging {
 public:
  static constexpr std::size_t kKinds = 3, kFewestSlots = 2, kMostSlots = 6;

  // Never reserves more than windows * slots * slot_bytes.
  Staging(Program& program, std::size_t slot_bytes, std::size_t windows, std::size_t slots)
      : program_(program), slot_bytes_(slot_bytes), windows_(windows), slots_(slots), used_(windows * slots) {}

  struct Slot {
    std::size_t number = 0;
    Place place;
    std::vector<std::uint32_t> after;  // the steps that must be done before it is written
  };

  // The slot of a segment of transfer `transfer`; both counted over those that take one.
  Slot take(std::size_t transfer, std::size_t segment) {
    const std::size_t number = transfer % windows_ * slots_ + segment % slots_, end = (number + 1) * slot_bytes_;
    if (buffer_ < 0) buffer_ = program_.add_scratch(0);
    std::size_t& reserved = program_.scratch[static_cast<std::size_t>(buffer_ - kScratch)];
    if (reserved < end) reserved = end;
    return {number, {buffer_, number * slot_bytes_}, used_[number]};
  }

  // The slot may be written again after these steps. Slots must be released in the order in which they are taken.
  void release(const Slot& slot, std::vector<std::uint32_t> steps) { used_[slot.number] = std::move(steps); }

 private:
  Program& program_;
  const std::size_t slot_bytes_, windows_, slots_;
  std::vector<std::vector<std::uint32_t>> used_;
  int buffer_ = -1;  // none before a slot is taken
};

}  // namespace merak
